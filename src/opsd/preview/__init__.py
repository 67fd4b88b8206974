"""Shows what student and teacher will read, before any training."""
