"""What a prompt says in each language: one data file per language."""
