"""Measure files: latency, memory, accuracy, proof of use."""
