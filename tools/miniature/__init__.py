"""How the built-in models are made: `python -m tools.miniature.build`."""
