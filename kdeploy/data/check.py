"""Check what a dataset returned before anything is computed on it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.contract import NOT_COUNTED, Parts, Preprocessing, Split
from kdeploy.data.rows import pieces
from kdeploy.errors import DataError

FLOAT_TYPES = (np.uint8, np.float32)
TOKEN_TYPES = (np.int32, np.int64)
_IN_ALPHA = (
    "look at the images: if they are drawn in the colour of `background`, set another, e.g. "
    "`background: [0, 0, 0]`"
)


def check_parts(parts: Parts, *, where: str) -> list[str]:
    """Check shapes, types, values, labels and preprocessing of all parts; return what is to know.

    Raises:
        DataError: something does not fit; it names the part, what was found and what to change.
    """
    _check_preprocessing(parts.preprocessing, where)
    for part, split in parts.named():
        place = f"{part} part of {where}" + (f" ({split.origin})" if split.origin else "")
        check_items(split.x, parts.preprocessing, place)
        check_varied(split.x, parts.preprocessing, place)
        _check_labels(split, parts.preprocessing, place)
    return _constant_channels(parts, where)


def check_varied(x: NDArray[Any], preprocessing: Preprocessing, place: str) -> None:
    """Refuse items that are all alike: nothing can be learned or measured on them.

    Raises:
        DataError: with what they all are.
    """
    first = np.asarray(x[0])
    if len(x) > 1 and any((piece != first).any() for _, piece in pieces(x)):
        return
    is_one_value = bool((first == first.flat[0]).all()) if first.size else True
    if len(x) == 1 and not is_one_value:
        return
    each = f": every value is {first.flat[0]}" if is_one_value and first.size else ""
    raise DataError(
        f"{place}: all {len(x)} items are the same{each}",
        hint=_IN_ALPHA if preprocessing.background else "look at how x was read and filled",
    )


def _constant_channels(parts: Parts, where: str) -> list[str]:
    """Return a sentence if channels of the training items never change, though others do."""
    if parts.preprocessing.is_tokens:
        return []
    x = parts.train.x
    first = np.asarray(x[0]).reshape(x.shape[1], -1)[:, :1]
    constant = np.ones(x.shape[1], bool)
    for _, piece in pieces(x):
        constant &= (piece.reshape(*piece.shape[:2], -1) == first).all(axis=(0, 2))
        if not constant.any():  # as a rule in the first piece: the rest is not read
            return []
    channels = np.flatnonzero(constant)
    listed = ", ".join(f"{channel} (always {first[channel, 0]})" for channel in channels)
    return [f"{where}: in x of train these channels never change: {listed}"]


def labels_from(y: NDArray[Any], *, where: str, tokens: int | None = None) -> NDArray[np.int64]:
    """Return labels as int64 after checking that they are integers (N,), none negative.

    Of items that are `tokens` long they may also be (N, tokens), with `NOT_COUNTED` among them.
    """
    found = f"found {y.dtype} of shape {tuple(y.shape)}"
    if y.ndim == 2 and tokens is not None and y.shape[1] == tokens:
        return _token_labels(y, where, found)
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


def _token_labels(y: NDArray[Any], where: str, found: str) -> NDArray[np.int64]:
    if not np.issubdtype(y.dtype, np.integer):
        raise DataError(f"{where}: labels must be integers; {found}", hint="`y.astype('int64')`")
    wrong = (y < 0) & (y != NOT_COUNTED)
    if wrong.any():
        item, token = np.argwhere(wrong)[0]
        raise DataError(
            f"{where}: label {y[item, token]} at item {item}, token {token} is negative",
            hint=f"classes count from 0; {NOT_COUNTED} marks a token that does not count",
        )
    if len(y) and (y == NOT_COUNTED).all():
        raise DataError(
            f"{where}: every label is {NOT_COUNTED}, so no token counts",
            hint="label the tokens that shall be learned",
        )
    return y.astype(np.int64)


def _check_preprocessing(preprocessing: Preprocessing, where: str) -> None:
    if preprocessing.is_tokens:
        _check_vocabulary(preprocessing, where)
    else:
        _check_normalization(preprocessing, where)
    if len(preprocessing.classes) < 2:
        raise DataError(
            f"{where}: found {len(preprocessing.classes)} class, classification needs two or more",
            hint="add the other classes, to train as well as to test",
        )


def _check_vocabulary(preprocessing: Preprocessing, where: str) -> None:
    if len(preprocessing.shape) != 1 or preprocessing.vocabulary < 2:
        raise DataError(
            f"{where}: token ids of shape {preprocessing.shape}, with a vocabulary of "
            f"{preprocessing.vocabulary}",
            hint="the shape is (tokens,), and `vocabulary` the number of ids, two or more",
        )


def _check_normalization(preprocessing: Preprocessing, where: str) -> None:
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


def check_items(x: NDArray[Any], preprocessing: Preprocessing, place: str) -> None:
    """Check number, type, shape and values of items.

    Raises:
        DataError: something does not fit.
    """
    shape, is_tokens = preprocessing.shape, preprocessing.is_tokens
    if len(x) == 0:
        raise DataError(f"{place} is empty", hint="each part needs items of every class")
    if x.dtype not in (TOKEN_TYPES if is_tokens else FLOAT_TYPES):
        wanted = "int32 or int64" if is_tokens else "uint8 or float32"
        target = "int64" if is_tokens else "float32"
        raise DataError(
            f"{place}: x is {x.dtype}, it must be {wanted}", hint=f"`x.astype('{target}')`"
        )
    if tuple(x.shape[1:]) != tuple(shape):
        raise DataError(
            f"{place}: an item has the shape {tuple(x.shape[1:])}, expected {tuple(shape)}",
            hint="train and test must have one shape: (channels, height, width), "
            "(channels, length) or (tokens,)",
        )
    if is_tokens:
        _check_ids(x, preprocessing.vocabulary, place)
    if x.dtype == np.float32:
        _check_finite(x, place)


def _check_ids(x: NDArray[Any], vocabulary: int, place: str) -> None:
    for start, piece in pieces(x):
        is_known = ((piece >= 0) & (piece < vocabulary)).all(axis=1)
        if not is_known.all():
            row = int(np.argmin(is_known))
            raise DataError(
                f"{place}: item {start + row} of x has ids from {piece[row].min()} to "
                f"{piece[row].max()}, the vocabulary has {vocabulary}: 0..{vocabulary - 1}",
                hint="use the vocabulary of the tokenizer that made the ids",
            )


def _check_finite(x: NDArray[Any], place: str) -> None:
    for start, piece in pieces(x):
        is_finite = np.isfinite(piece).reshape(len(piece), -1).all(axis=1)
        if not is_finite.all():
            item = start + int(np.argmin(is_finite))
            raise DataError(
                f"{place}: item {item} of x holds a value that is NaN or infinite",
                hint="`np.isfinite(x).all()` finds them; repair or drop those items",
            )


def _check_labels(split: Split, preprocessing: Preprocessing, place: str) -> None:
    classes = preprocessing.classes
    if len(split.y) != len(split.x):
        raise DataError(
            f"{place}: {len(split.x)} items but {len(split.y)} labels",
            hint="x and y must have one entry an item, in the same order",
        )
    tokens = preprocessing.shape[0] if preprocessing.is_tokens else None
    y = labels_from(split.y, where=place, tokens=tokens)
    if int(y.max()) >= len(classes):
        item = int(y.reshape(len(y), -1).max(axis=1).argmax())
        raise DataError(
            f"{place}: label {int(y.max())} at item {item} is out of range, there are "
            f"{len(classes)} classes: 0..{len(classes) - 1}",
            hint="correct the label, or raise the number of `classes`",
        )
