"""Published test sets with their settings, label fixes and printed numbers."""
