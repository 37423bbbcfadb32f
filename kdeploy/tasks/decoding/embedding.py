"""Embeddings on the device: vectors of length 1, whose product is their cosine."""

from __future__ import annotations

from typing import Any

import numpy as np

LEAST_COSINE = 0.99
"""Of a vector and that of another processor."""


def unit_vectors(vectors: Any) -> Any:
    """Return vectors (N, width) divided by their length, float32."""
    made = np.asarray(vectors, np.float32)
    length = np.linalg.norm(made, axis=-1, keepdims=True)
    return (made / np.maximum(length, 1e-12)).astype(np.float32)


def decode(outputs: Any, task: Any) -> Any:
    """Return the unit vector of one item."""
    return {"embedding": unit_vectors(next(iter(outputs.values())))[0].tolist()}


def disagreement(outputs: Any, recorded: Any, task: Any, atol: float) -> str:
    """Return the cosine to the recorded vector where it is too small, in words; else ""."""
    del task, atol  # the angle is what similarity is made of
    own, expected = (unit_vectors(next(iter(x.values())))[0] for x in (outputs, recorded))
    cosine = float((own * expected).sum())
    if cosine >= LEAST_COSINE:
        return ""
    return f"the cosine to the recorded vector is {cosine:.4f}, at least {LEAST_COSINE} allowed"
