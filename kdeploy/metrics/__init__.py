"""Numbers on predictions; one metric a file."""
