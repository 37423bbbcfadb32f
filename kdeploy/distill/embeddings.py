"""Embeddings: feature maps of a batch as vectors of comparable length."""

from __future__ import annotations

import torch
from torch import Tensor


def pooled(features: Tensor) -> Tensor:
    """Return vectors (batch, channels): maps (batch, channels, ...) averaged over positions."""
    return features.flatten(2).mean(2) if features.ndim > 2 else features


def unit(vectors: Tensor) -> Tensor:
    """Return the vectors along the last dimension at length 1; those of length 0 stay 0.

    Not `functional.normalize`: it multiplies the gradient of a vector that is 0 by 1e12.
    """
    return vectors / nonzero(torch.linalg.vector_norm(vectors, dim=-1, keepdim=True))


def nonzero(divisors: Tensor) -> Tensor:
    """Return what is safe to divide by: 1 instead of 0, with no gradient there."""
    return torch.where(divisors > 0, divisors, 1.0)
