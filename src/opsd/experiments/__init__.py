"""The quickstart, and tests of the papers' claims in the built-in world."""
