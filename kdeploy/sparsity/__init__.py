"""Zeros in weights: which stay, in which pattern, and how they are chosen."""
