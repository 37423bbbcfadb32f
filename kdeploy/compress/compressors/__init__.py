"""The compressors, one technique a file."""
