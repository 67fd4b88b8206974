"""Prompts of students and teachers: contexts, templates, chat templates, and whether they fit."""
