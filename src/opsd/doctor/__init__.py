"""What is wrong with a dataset, before anything is learned from it."""
