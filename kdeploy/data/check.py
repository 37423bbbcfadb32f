"""Check what a dataset returned before anything is computed on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.class_targets import read_classes
from kdeploy.data.contract import Parts, Preprocessing, Split
from kdeploy.data.equal_items import notes_on_equal_items
from kdeploy.data.item_types import layout_hint, type_hint
from kdeploy.data.lazy_items import LazyItems
from kdeploy.data.rows import Joined, Rows, pieces
from kdeploy.data.several_inputs import check_input_names
from kdeploy.errors import DataError
from kdeploy.named_arrays import by_name

FLOAT_TYPES = (np.uint8, np.float32)
TOKEN_TYPES = (np.int32, np.int64)
ITEMS = (np.ndarray, Rows, Joined, LazyItems)
_IN_ALPHA = (
    "look at the images: if they are drawn in the colour of `background`, set another, e.g. "
    "`background: [0, 0, 0]`"
)


def checked_parts(
    parts: Parts, *, where: str, read_targets: Callable[..., Parts] = read_classes
) -> Parts:
    """Return the parts, their targets read, after checking all that a model relies on.

    The notes gain what people should know of them.

    Args:
        parts: As the dataset returned them.
        where: Begins the messages.
        read_targets: The task's, see `TargetReader`.

    Raises:
        DataError: something does not fit; it names the part, what was found and what to change.
    """
    known = parts.preprocessing
    _check_preprocessing(known, where)
    for part, split in parts.named():
        place = f"{part} part of {where}" + (f" ({split.origin})" if split.origin else "")
        _check_kinds(split, place)
        check_items(split.x, known, place)
        _check_type(split.x, parts, place)
        check_varied(split.x, known, place)
        _check_count(split, place)
    if parts.unlabelled is not None:
        place = f"unlabelled items of {where}"
        check_items(parts.unlabelled, known, place)
        _check_type(parts.unlabelled, parts, place)
    notes = []
    for name, x in by_name(parts.train.x):
        own, place = known.inputs.get(name, known), f"{where}, `{name}`" if name else where
        hint = layout_hint(own.shape)
        notes += [f"{place}: {hint}"] if hint else []
        notes += _constant_channels(x, own, place)
    notes += notes_on_equal_items(parts, where)
    return read_targets(replace(parts, notes=(*parts.notes, *notes)), where=where)


def _check_count(split: Split, place: str) -> None:
    if split.y.ndim == 0:
        raise DataError(
            f"{place}: y is a single number", hint="give one for each item: its first axis is N"
        )
    if len(split.y) != len(split.x):
        raise DataError(
            f"{place}: {len(split.x)} items but {len(split.y)} labels",
            hint="x and y must have one entry an item, in the same order",
        )


def _check_type(x: NDArray[Any], parts: Parts, place: str) -> None:
    of_train, known = dict(by_name(parts.train.x)), parts.preprocessing
    for name, array in by_name(x):
        wanted = of_train[name].dtype
        if array.dtype != wanted and not known.inputs.get(name, known).is_tokens:
            raise DataError(
                f"{place}: {name or 'x'} is {array.dtype}, in the train part it is {wanted}",
                hint="store all parts in one type, on one scale",
            )


def _check_kinds(split: Split, place: str) -> None:
    items: list[tuple[str, Any, tuple[type, ...]]] = [
        (name or "x", array, ITEMS) for name, array in by_name(split.x)
    ]
    for name, value, kinds in (*items, ("y", split.y, (np.ndarray,))):
        if not isinstance(value, kinds):
            raise DataError(
                f"{place}: {name} is {type(value).__name__}, not a numpy array",
                hint=f"`np.asarray({name})`, of a torch tensor `{name}.numpy()`",
            )


def check_varied(x: NDArray[Any], preprocessing: Preprocessing, place: str) -> None:
    """Refuse items that are all alike: nothing can be learned or measured on them.

    Raises:
        DataError: with what they all are.
    """
    if preprocessing.inputs:
        # One input may well be the same throughout, as a mask of full sequences; not all of them.
        if len(x) == 1 or any(_varies(array) for _, array in by_name(x)):
            return
        raise DataError(
            f"{place}: all {len(x)} items are the same", hint="look at how the inputs were filled"
        )
    first = np.asarray(x[0])
    if _varies(x):
        return
    is_one_value = bool((first == first.flat[0]).all()) if first.size else True
    if len(x) == 1 and not is_one_value:
        return
    each = f": every value is {first.flat[0]}" if is_one_value and first.size else ""
    raise DataError(
        f"{place}: all {len(x)} items are the same{each}",
        hint=_IN_ALPHA if preprocessing.background else "look at how x was read and filled",
    )


def _varies(x: NDArray[Any]) -> bool:
    first = np.asarray(x[0])
    return len(x) > 1 and any((piece != first).any() for _, piece in pieces(x))


def _constant_channels(x: NDArray[Any], preprocessing: Preprocessing, where: str) -> list[str]:
    """Return a sentence if channels of the training items never change, though others do."""
    if preprocessing.is_tokens or x.ndim < 2:
        return []
    first = np.asarray(x[0]).reshape(x.shape[1], -1)[:, :1]
    constant = np.ones(x.shape[1], bool)
    for _, piece in pieces(x):
        constant &= (piece.reshape(*piece.shape[:2], -1) == first).all(axis=(0, 2))
        if not constant.any():  # as a rule in the first piece: the rest is not read
            return []
    channels = np.flatnonzero(constant)
    listed = ", ".join(f"{channel} (always {first[channel, 0]})" for channel in channels)
    return [f"{where}: in x of train these channels never change: {listed}"]


def _check_preprocessing(preprocessing: Preprocessing, where: str) -> None:
    for name, one in preprocessing.inputs.items():
        place = f"{where}, input `{name}`"
        if not name.isidentifier():
            raise DataError(
                f"{place}: that is no name of a parameter of `forward`",
                hint="call the array as forward calls what it takes, e.g. `image`",
            )
        if not one.is_tokens:
            _check_normalization(one, place)
        elif one.vocabulary < 1:
            raise DataError(
                f"{place}: a vocabulary of {one.vocabulary}", hint="the number of values, 1 or more"
            )
    if preprocessing.inputs:
        return
    if not preprocessing.shape:
        raise DataError(
            f"{where}: x is one number an item",
            hint="an item is an array: (channels, height, width), (channels, length), (channels, "
            "frames, height, width) or (tokens,)",
        )
    if preprocessing.is_tokens:
        _check_vocabulary(preprocessing, where)
    else:
        _check_normalization(preprocessing, where)


def _check_vocabulary(preprocessing: Preprocessing, where: str) -> None:
    if len(preprocessing.shape) != 1 or preprocessing.vocabulary < 2:
        raise DataError(
            f"{where}: token ids of shape {preprocessing.shape}, with a vocabulary of "
            f"{preprocessing.vocabulary}",
            hint="the shape is (tokens,), and `vocabulary` the number of ids, two or more",
        )


def _check_normalization(preprocessing: Preprocessing, where: str) -> None:
    channels = preprocessing.shape[0] if preprocessing.shape else 1
    if not np.isfinite(preprocessing.scale) or preprocessing.scale == 0:
        raise DataError(
            f"{where}: `scale` is {preprocessing.scale}",
            hint="what stored values are multiplied by: 1 for none, 1 / 255 for bytes",
        )
    if preprocessing.resize not in ("", "bilinear", "letterbox"):
        raise DataError(
            f"{where}: `resize` is `{preprocessing.resize:.40}`, which no bundle can do",
            hint='"bilinear" (Pillow), "letterbox" (the same, between grey bars), or "" where '
            "images are not resized",
        )
    ground = preprocessing.background
    if ground and (len(ground) != 3 or not 0 <= min(ground) <= max(ground) <= 255):
        raise DataError(
            f"{where}: `background` is {ground}", hint="red, green and blue, each from 0 to 255"
        )
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
    check_input_names(x, preprocessing, place)
    for name, one in preprocessing.inputs.items():
        check_items(_of(x, name), one, f"{place}, input `{name}`")
    if preprocessing.inputs:
        return
    shape, is_tokens = preprocessing.shape, preprocessing.is_tokens
    if 0 in x.shape[1:]:
        raise DataError(
            f"{place}: items of shape {tuple(x.shape[1:])} hold no values",
            hint="look at how x was cut: no axis may be empty",
        )
    if len(x) == 0:
        raise DataError(f"{place} is empty", hint="each part needs items of every class")
    if x.dtype not in (TOKEN_TYPES if is_tokens else FLOAT_TYPES):
        wanted = "int32 or int64" if is_tokens else "uint8 or float32"
        raise DataError(
            f"{place}: x is {x.dtype}, it must be {wanted}",
            hint="token ids are integers: `x = x.astype('int64')`" if is_tokens else type_hint(x),
        )
    if tuple(x.shape[1:]) != tuple(shape):
        raise DataError(
            f"{place}: an item has the shape {tuple(x.shape[1:])}, expected {tuple(shape)}",
            hint="items of all parts have one shape: (channels, height, width), "
            "(channels, length) or (tokens,)",
        )
    if is_tokens:
        _check_ids(x, preprocessing.vocabulary, place)
    if x.dtype == np.float32:
        _check_finite(x, place)


def _of(x: Any, name: str) -> NDArray[Any]:
    return dict(by_name(x))[name]


def _check_ids(x: NDArray[Any], vocabulary: int, place: str) -> None:
    for start, piece in pieces(x):
        is_known = ((piece >= 0) & (piece < vocabulary)).reshape(len(piece), -1).all(axis=1)
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
