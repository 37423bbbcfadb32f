"""Weights as products of smaller ones: ranks, decompositions, plain layers for them."""
