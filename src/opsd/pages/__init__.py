"""What all pages have in common: templates that escape, and untrusted text made visible."""
