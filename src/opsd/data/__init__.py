"""What is asked, and in which language."""
