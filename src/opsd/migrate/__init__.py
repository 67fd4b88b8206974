"""Other projects' launch scripts and configurations as recipes; what each flag becomes is data."""
