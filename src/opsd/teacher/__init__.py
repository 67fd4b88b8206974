"""Teachers: their weights, and the scoring of completions."""
