"""Texts on the device: the likeliest of each frame, repeats collapsed, then blanks dropped."""

from __future__ import annotations

from typing import Any

import numpy as np

FILLER = -1


def decoded(logits: Any, blank: int) -> Any:
    """Return the places in the alphabet, (N, frames), filled up with -1, of logits (N, frames, C).

    Graves et al., ICML 2006, section 3.2: best path decoding.
    """
    best = np.asarray(logits).argmax(axis=-1)
    stays = np.ones(best.shape, bool)
    stays[:, 1:] = best[:, 1:] != best[:, :-1]
    # After repeats were collapsed: a blank between two equal characters keeps both.
    stays &= best != blank
    made = np.full(best.shape, FILLER, np.int32)
    for row, (own, kept) in enumerate(zip(best, stays)):  # noqa: B905 - Python 3.9
        own = own[kept]
        made[row, : len(own)] = own - (own > blank)  # without the blank's own place
    return made


def text_of(places: Any, alphabet: str) -> str:
    """Return the text of places in the alphabet, without what fills it up."""
    return "".join(alphabet[p] if p < len(alphabet) else "?" for p in places if p >= 0)


def decode(outputs: Any, task: Any) -> Any:
    """Return the text of one item."""
    found = task["found"]
    places = decoded(next(iter(outputs.values())), found["blank"])[0]
    return {"text": text_of(places, found["alphabet"])}


def disagreement(outputs: Any, recorded: Any, task: Any, atol: float) -> str:
    """Return what is read in place of the recorded text; "" where that is the same.

    Outputs may differ by `atol`: frames whose classes lie nearer than twice that prove nothing.
    """
    own, expected = (np.asarray(next(iter(x.values())))[0] for x in (outputs, recorded))
    at_own = np.take_along_axis(expected, own.argmax(-1)[:, None], -1)[:, 0]
    texts = [decode(x, task)["text"] for x in (outputs, recorded)]
    if texts[0] == texts[1] or not (expected.max(-1) - at_own > 2 * atol).any():
        return ""
    return f"`{texts[0]}` is read in place of `{texts[1]}`"
