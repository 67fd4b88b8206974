"""Side-by-side measurements against other implementations; each a ratio within one run."""
