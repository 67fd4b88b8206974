"""Language models as the rest needs them: loading, forward passes, layout, sharding."""
