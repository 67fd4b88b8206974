"""The commands. They are thin: each imports what it needs when it runs."""
