"""The steps to run, as YAML: read, resolved and checked before any work is done."""
