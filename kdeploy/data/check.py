"""Check what a dataset returned before anything is computed on it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.contract import Parts, Preprocessing, Split
from kdeploy.data.rows import pieces
from kdeploy.errors import DataError


def check_parts(parts: Parts, *, where: str) -> None:
    """Check shapes, types, labels and preprocessing of both parts.

    Raises:
        DataError: something does not fit; it names the part, what was found and what to change.
    """
    _check_preprocessing(parts.preprocessing, where)
    for part, split in (("train", parts.train), ("test", parts.test)):
        place = f"{part} part of {where}" + (f" ({split.origin})" if split.origin else "")
        check_items(split.x, parts.preprocessing.shape, place)
        _check_labels(split, parts.preprocessing.classes, place)


def labels_from(y: NDArray[Any], *, where: str) -> NDArray[np.int64]:
    """Return labels as int64 after checking that they are integers (N,), none negative."""
    found = f"found {y.dtype} of shape {tuple(y.shape)}"
    if y.ndim != 1:
        raise DataError(
            f"{where}: labels must be one number an item, (N,); {found}",
            hint="class indices, not one-hot: `y = y.argmax(1)` or `y = y.ravel()`",
        )
    if not np.issubdtype(y.dtype, np.integer):
        raise DataError(f"{where}: labels must be integers; {found}", hint="`y.astype('int64')`")
    if len(y) and int(y.min()) < 0:
        raise DataError(
            f"{where}: label {int(y.min())} at item {int(y.argmin())} is negative",
            hint="classes count from 0",
        )
    return y.astype(np.int64)


def _check_preprocessing(preprocessing: Preprocessing, where: str) -> None:
    channels = preprocessing.shape[0]
    for name in ("mean", "std"):
        values = getattr(preprocessing, name)
        if len(values) not in (1, channels):
            raise DataError(
                f"{where}: `{name}` has {len(values)} numbers for {channels} channels",
                hint=f"give one number, or one a channel: {channels}",
            )
        if not np.isfinite(values).all() or (name == "std" and min(values) <= 0):
            raise DataError(
                f"{where}: `{name}` is {values}", hint="finite numbers; a std is above 0"
            )
    if len(preprocessing.classes) < 2:
        raise DataError(
            f"{where}: found {len(preprocessing.classes)} class, classification needs two or more",
            hint="add the other classes, to train as well as to test",
        )


def check_items(x: NDArray[Any], shape: tuple[int, ...], place: str) -> None:
    """Check number, type, shape and values of items.

    Raises:
        DataError: something does not fit.
    """
    if len(x) == 0:
        raise DataError(f"{place} is empty", hint="each part needs items of every class")
    if x.dtype not in (np.uint8, np.float32):
        raise DataError(
            f"{place}: x is {x.dtype}, it must be uint8 or float32", hint="`x.astype('float32')`"
        )
    if tuple(x.shape[1:]) != tuple(shape):
        raise DataError(
            f"{place}: an item has the shape {tuple(x.shape[1:])}, expected {tuple(shape)}",
            hint="train and test must have one shape: (channels, height, width) or "
            "(channels, length)",
        )
    if x.dtype == np.float32:
        _check_finite(x, place)


def _check_finite(x: NDArray[Any], place: str) -> None:
    for start, piece in pieces(x):
        is_finite = np.isfinite(piece).reshape(len(piece), -1).all(axis=1)
        if not is_finite.all():
            item = start + int(np.argmin(is_finite))
            raise DataError(
                f"{place}: item {item} of x holds a value that is NaN or infinite",
                hint="`np.isfinite(x).all()` finds them; repair or drop those items",
            )


def _check_labels(split: Split, classes: tuple[str, ...], place: str) -> None:
    if len(split.y) != len(split.x):
        raise DataError(
            f"{place}: {len(split.x)} items but {len(split.y)} labels",
            hint="x and y must have one entry an item, in the same order",
        )
    y = labels_from(split.y, where=place)
    if int(y.max()) >= len(classes):
        raise DataError(
            f"{place}: label {int(y.max())} at item {int(y.argmax())} is out of range, there are "
            f"{len(classes)} classes: 0..{len(classes) - 1}",
            hint="correct the label, or raise the number of `classes`",
        )
