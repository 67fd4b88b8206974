"""Who teaches: what the teacher reads, with which weights, and how its rows are aligned."""
