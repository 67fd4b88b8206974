"""Scripts of the checkout, which no installation needs."""
