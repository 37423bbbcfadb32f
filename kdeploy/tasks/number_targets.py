"""Targets that are numbers: read as float32, with the item and column of what is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.class_targets import labelled_parts
from kdeploy.data.contract import Parts
from kdeploy.errors import DataError

Read = Callable[[NDArray[Any], str], tuple[NDArray[Any], str]]


def read_each(parts: Parts, read: Read, *, where: str) -> Parts:
    """Return the parts with the targets of each that has some read by `read`.

    Args:
        parts: As the dataset gave them.
        read: Returns targets as they are stored, and a note on what was converted, "" for nothing.
        where: Names the data in messages.
    """
    made: dict[str, Any] = {}
    notes = list(parts.notes)
    for name, split, place in labelled_parts(parts, where=where):
        targets, note = read(np.asarray(split.y), split.targets_origin or place)
        made[name] = replace(split, y=targets)
        notes += [note] if note else []
    return replace(parts, **made, notes=tuple(notes), as_given=None)


def as_floats(y: NDArray[Any], where: str) -> NDArray[np.float32]:
    """Return targets as float32.

    Raises:
        DataError: they are no numbers, or one is NaN or infinite.
    """
    if y.dtype.kind not in "biuf":
        raise DataError(
            f"{where}: targets are {y.dtype} of shape {tuple(y.shape)}, which are no numbers",
            hint="store numbers: `y = y.astype('float32')`",
        )
    with np.errstate(over="ignore"):
        made = y.astype(np.float32)
    if not np.isfinite(made).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(made))[0])
        raise DataError(
            f"{where}: target {y[place]} at item {place[0]}"
            + (f", place {place[1:] if len(place) > 2 else place[1]}" if len(place) > 1 else "")
            + " is no finite number in float32",
            hint="drop such items: `keep = np.isfinite(y).reshape(len(y), -1).all(1); "
            "x, y = x[keep], y[keep]`",
        )
    return made
