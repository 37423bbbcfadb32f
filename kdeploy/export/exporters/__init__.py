"""The exporters, one target and source a file."""
