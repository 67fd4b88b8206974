"""Authors of privileged texts: the model, an endpoint, a function, a skill bank."""
