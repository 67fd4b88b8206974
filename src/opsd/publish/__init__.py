"""A trained model for others: export, model card, hub."""
