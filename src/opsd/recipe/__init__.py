"""YAML to validated values and back; trains and retraces a recipe."""
