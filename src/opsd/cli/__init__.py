"""The commands. Thin: each imports what it needs when it runs."""
