"""Language models: loading, forward passes, layout, sharding."""
