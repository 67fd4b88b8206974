"""How good is a model: suites, runs and the numbers that summarise them."""
