"""What student and teacher read: contexts, templates, chat templates, and whether it fits."""
