"""Make and verify the edge bundle."""
