"""What is written down: whole files, read back strictly, with where they come from."""
