"""Publishing a trained model: export, model card, Hub."""
