"""Number formats, observers, placement and profiles of quantization."""
