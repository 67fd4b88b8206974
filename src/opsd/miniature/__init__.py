"""The built-in world: small word problems in a few languages, and tiny models for them."""
