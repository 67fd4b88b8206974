"""What all pages share: templates that escape, and functions that make untrusted text visible."""
