"""Where a graph holds the queries, keys or values of an attention word by word.

An attention multiplies them by heads, (batch, heads, words, width) or (batch x heads, words,
width). The fused operator wants them as most graphs have them before: (batch, words, heads x
width). torch's own layers have them with the words first, and all three in one tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from kdeploy.onnx_graph.layout_tracing import Places, Shapes, SourceTensor, origins, places_of

BATCH_FIRST = (1, 0, 2)
"""What brings (words, batch, channels) into the operator's order, and back."""


class NotFusable(Exception):
    """Why an attention is not fused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """A tensor that holds an operand, and what makes (batch, words, channels) of it."""

    value: ir.Value
    perm: tuple[int, ...] | None
    is_by_heads: bool
    """Behind the transposition: heads and their width are two axes."""
    first: int | None
    """The first channel; none: they are all that there are."""
    batch: int
    heads: int
    scale: float


def find_words(shapes: Shapes, value: ir.Value, size: tuple[int, ...], *, role: str) -> Words:
    """Return the best place where a graph holds an operand by words.

    Args:
        shapes: Of the graph's tensors.
        value: The operand, by heads.
        size: Its shape, of keys before they are transposed.
        role: Keys are transposed; values must not be scaled on the way.
    """
    found = None
    for origin in origins(shapes, value):
        places = origin.places.swapaxes(-1, -2) if role == "key" else origin.places
        if len(origin.shape) != 3 or (role == "value" and origin.scale != 1):
            continue
        for perm in (None, BATCH_FIRST):
            words = _as_words(origin, places, perm)
            if words is None or (found and words.heads != found.heads):
                continue  # items and heads on one axis could be items alone
            if words.perm is None and words.first is None:
                return words
            found = found or words
    # (batch x heads, words, width): how many of these are heads, only the way there could say.
    if found is None and len(size) == 3:
        raise NotFusable("how its heads are put together is not known")
    return found or Words(
        value=value,
        perm=(0, 3, 1, 2) if role == "key" else (0, 2, 1, 3),
        is_by_heads=True,
        first=None,
        batch=size[0],
        heads=size[1],
        scale=1.0,
    )


def _as_words(
    origin: SourceTensor, places: Places, perm: tuple[int, int, int] | None
) -> Words | None:
    """Return how an operand is a part of a tensor, whose batch `perm` brings to the front."""
    held = places_of(origin.shape).transpose(perm or (0, 1, 2))
    batch, words, channels = held.shape
    length, width = places.shape[-2:]
    heads = places.size // (batch * words * width)
    first = int(places.flat[0])
    same = heads and words == length and places.size == batch * words * heads * width
    if not same or places.shape[:-2] not in {(batch, heads), (batch * heads,)}:
        return None
    part = held[:, :, first : first + heads * width]
    if part.size != places.size:
        return None
    by_heads = part.reshape(batch, words, heads, width).swapaxes(1, 2)
    if not np.array_equal(by_heads.reshape(places.shape), places):
        return None
    return Words(
        value=origin.value,
        perm=perm,
        is_by_heads=False,
        first=None if channels == heads * width else first,
        batch=batch,
        heads=heads,
        scale=origin.scale,
    )
