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
    found = _read(next(iter(outputs.values())), task)[0]
    names = task["found"]["labels"] or [str(i) for i in range(len(found))]
    chosen = np.flatnonzero(found >= task["parameters"]["threshold"])
    order = chosen[np.argsort(-found[chosen], kind="stable")]
    return {"labels": {names[i]: float(found[i]) for i in order}}


def disagreement(outputs: Any, recorded: Any, task: Any, atol: float) -> str:
    """Return the first label that is decided otherwise than recorded; "" where there is none.

    Outputs may differ by `atol`: labels that lie nearer to the threshold prove nothing.
    """
    own, expected = (np.asarray(next(iter(x.values())), np.float32)[0] for x in (outputs, recorded))
    threshold = task["parameters"]["threshold"]
    is_clear = (_read(expected - atol, task) >= threshold) == (
        _read(expected + atol, task) >= threshold
    )
    decided = [_read(x, task) >= threshold for x in (own, expected)]
    names = task["found"]["labels"]
    for place in np.flatnonzero(is_clear & (decided[0] != decided[1])):
        name = names[place] if names else str(place)
        return f"`{name}` is {'read' if decided[0][place] else 'not read'}"
    return ""


def _read(outputs: Any, task: Any) -> Any:
    """Return probabilities of outputs, which a file may have made already."""
    made = np.asarray(outputs, np.float32)
    return made if task["found"].get("are_probabilities") else probabilities(made)
