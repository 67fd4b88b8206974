"""One page about one or more runs, read from their folders alone. Nothing imports this part."""
