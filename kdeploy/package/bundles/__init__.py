"""Kinds of bundle, one a kind of file."""
