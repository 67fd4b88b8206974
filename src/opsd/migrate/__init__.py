"""Converts other projects' launch scripts and configurations into recipes; the rules are data."""
