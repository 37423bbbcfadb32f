"""Names for all tensors that a model returns: the way to each, joined by dots.

One tensor alone is `output`. Of a mapping it is the key, of a list or a tuple the place, of a named
tuple or a dataclass the field: `{"boxes": [b8, b16], "scores": s}` has `boxes.0`, `boxes.1` and
`scores`; a list alone has `output.0`, `output.1`. What is no tensor (None, numbers, text) has no
name; a tuple of one tensor is that tensor. ONNX files, parity, tasks and runtimes have these names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import SUPPORTED_NODES

OUTPUT, FIRST = "output", "output.0"


def named_outputs(answer: Any) -> dict[str, Tensor]:
    """Return all tensors of what a model returned, by name, in its order."""
    is_list = isinstance(answer, list | tuple) and not hasattr(answer, "_fields")
    found = dict(_tensors(answer, (OUTPUT,) if is_list or isinstance(answer, Tensor) else ()))
    return {OUTPUT: found[FIRST]} if list(found) == [FIRST] else found


def register_dataclasses(answer: Any) -> int:
    """Make the dataclasses in what a model returned known to torch.export; return how many."""
    kind = type(answer)
    is_new = (
        is_dataclass(answer) and not isinstance(answer, Mapping) and kind not in SUPPORTED_NODES
    )
    if is_new:
        torch.export.register_dataclass(kind)
    return is_new + sum(register_dataclasses(inner) for _, inner in _parts(answer))


def _tensors(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield ".".join(path), value
    for name, inner in _parts(value):
        yield from _tensors(inner, (*path, str(name)))


def _parts(value: Any) -> Iterator[tuple[object, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, list | tuple):
        yield from zip(getattr(value, "_fields", range(len(value))), value, strict=True)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from ((field.name, getattr(value, field.name)) for field in fields(value))
