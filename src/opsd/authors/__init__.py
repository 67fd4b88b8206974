"""Who writes privileged text: the model, an endpoint, a function, a skill bank."""
