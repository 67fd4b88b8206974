"""The texts of prompts in each language: one data file per language."""
