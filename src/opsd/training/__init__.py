"""The trainer, on transformers.Trainer."""
