"""The kinds of dynamic model, one a file."""
