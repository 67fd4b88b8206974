"""A run's folder and its environment: the interface between all parts."""
