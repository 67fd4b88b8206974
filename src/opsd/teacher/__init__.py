"""Who teaches: whose weights, and the scoring of completions."""
