"""Recipes: from YAML to validated values and back; training and retracing."""
