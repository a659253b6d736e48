"""What is run: the configuration, the one entry point, and one job a file."""
