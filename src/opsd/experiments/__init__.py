"""The quickstart, and the papers' claims tried in the built-in world."""
