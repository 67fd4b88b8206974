"""Scripts of the repository, which an installation does not need."""
