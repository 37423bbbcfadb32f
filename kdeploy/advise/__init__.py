"""Advice: which recipe to try first for a model on this machine, with the evidence for it."""
