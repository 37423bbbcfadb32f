"""Make a model smaller; one technique a file, steps chain."""
