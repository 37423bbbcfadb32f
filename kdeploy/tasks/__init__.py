"""What targets and outputs mean; one task a file."""
