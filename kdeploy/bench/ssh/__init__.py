"""Measure on other machines, over ssh."""
