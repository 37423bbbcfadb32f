"""Datasets, one a file; splits and preprocessing."""
