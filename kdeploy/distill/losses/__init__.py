"""Losses of distillation, one knowledge a file."""
