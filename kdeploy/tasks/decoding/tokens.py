"""Labels of tokens on the device: the likeliest class of each token, by name."""

from __future__ import annotations

from typing import Any

import numpy as np


def decode(outputs: Any, task: Any) -> Any:
    """Return the label of each token of one item."""
    logits = np.asarray(next(iter(outputs.values())))[0]
    names = task["found"]["classes"]
    return {"labels": [names[c] if c < len(names) else str(c) for c in logits.argmax(axis=-1)]}


def disagreement(outputs: Any, recorded: Any, task: Any, atol: float) -> str:
    """Return the first token whose label is another than recorded; "" where there is none.

    Outputs may differ by `atol`: labels that lie nearer than twice that prove nothing.
    """
    own, expected = (np.asarray(next(iter(x.values())))[0] for x in (outputs, recorded))
    at_own = np.take_along_axis(expected, own.argmax(-1)[:, None], -1)[:, 0]
    labels = [decode(x, task)["labels"] for x in (outputs, recorded)]
    for token in np.flatnonzero(expected.max(-1) - at_own > 2 * atol):
        return f"token {token} is {labels[0][token]}, not {labels[1][token]}"
    return ""
