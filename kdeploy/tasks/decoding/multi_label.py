"""Labels on the device: logits to probabilities, and the names of those above the threshold."""

from __future__ import annotations

from typing import Any

import numpy as np


def probabilities(logits: Any) -> Any:
    """Return the sigmoid of logits, float32; NaN stays NaN."""
    x = np.asarray(logits, np.float32)
    small = np.exp(-np.abs(x))  # never overflows
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)


def decode(outputs: Any, task: Any) -> Any:
    """Return the labels of one item that reach the threshold, with their probabilities."""
    found = np.asarray(next(iter(outputs.values())), np.float32)
    if not task["found"].get("are_probabilities"):
        found = probabilities(found)
    found = found[0]
    names = task["found"]["labels"] or [str(i) for i in range(len(found))]
    chosen = np.flatnonzero(found >= task["parameters"]["threshold"])
    order = chosen[np.argsort(-found[chosen], kind="stable")]
    return {"labels": {names[i]: float(found[i]) for i in order}}
