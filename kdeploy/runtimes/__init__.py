"""Programs that open a file and run it; one a file."""
