"""Arrays of your own: images, signals or token ids, in .npz, .npy or .safetensors files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.array_files import FORMS, members_of, named_items_of
from kdeploy.data.check import FLOAT_TYPES, TOKEN_TYPES
from kdeploy.data.contract import AsGiven, Parts, Preprocessing, Split, dataset
from kdeploy.data.further_items import further_items
from kdeploy.data.item_types import type_hint
from kdeploy.data.several_inputs import named_arrays, preprocessing_of_inputs
from kdeploy.errors import DataError
from kdeploy.named_arrays import NamedArrays

KEYS = ("x", "y")
BYTE_SCALE = 1 / 255  # uint8 to 0..1
ITEMS_AS_CALLED = ("x", "images", "image", "data", "inputs", "features", "signals")
"""What people call items in files of their own, in lower case."""


@dataset()
def arrays(
    *,
    train: Path,
    test: Path,
    validation: Path | None = None,
    unlabelled: Path | None = None,
    mean: list[float] | dict[str, list[float]] | None = None,
    std: list[float] | dict[str, list[float]] | None = None,
    classes: list[str] | int | None = None,
    vocabulary: int | dict[str, int] | None = None,
) -> Parts:
    """Return the parts; `x` is (N,C,H,W) or (N,C,L), float32 or uint8; `y` is what the task needs.

    Items of several inputs have no `x` but arrays named as the parameters of `forward`, each
    (N, ...): uint8 or float32 are normalised, int32 or int64 are given as they are. Classes are
    (N,) integers; other tasks take vectors (N, D), masks (N, H, W) or sets (N, C).

    float32 goes to the model as it is, uint8 as x / 255, in both cases less `mean` and over `std`.
    Token ids are (N, tokens), int32 or int64; their `y` may be (N, tokens) too, a class for every
    token and -100 for one that does not count.

    Args:
        train: A .npz or .safetensors file, or a folder with x.npy and y.npy (memory-mapped).
        test: The same for the test part.
        validation: The same for the validation part; left out, it is held out of train.
        unlabelled: A .npy, a file with `x`, or of bytes a folder of images, that INT8 is
            calibrated on; left out, train.
        mean: Subtracted, one number or one a channel; 0 when left out. Of several inputs by name.
        std: Divided by, one number or one a channel; 1 when left out. Of several inputs by name.
        classes: Names of the classes or their number; left out, up to the largest training label.
        vocabulary: Of token ids, how many there are; left out, up to the largest training id. Of
            several inputs by name.
    """
    paths = {"train": train, "test": test} | ({"validation": validation} if validation else {})
    _check_apart(paths)
    read = {part: _part(path) for part, path in paths.items()}
    x = read["train"].x
    if isinstance(x, NamedArrays):
        preprocessing = preprocessing_of_inputs(
            x.arrays, where=str(train), mean=mean, std=std, vocabulary=vocabulary
        )
    else:
        _check_one_type(read, paths)
        preprocessing = _of_one_input(x, str(train), mean, std, vocabulary)
    splits = {
        part: Split(x=one.x, y=one.y, origin=str(paths[part]), targets_origin=str(paths[part]))
        for part, one in read.items()
    }
    more: NDArray[Any] | None = None
    told = list[str]()
    if unlabelled is not None and preprocessing.inputs:
        found = named_items_of(unlabelled, preprocessing.inputs)
        more = cast("Any", named_arrays(found, where=str(unlabelled)) if found else x[:0])
    elif unlabelled is not None:
        more, _, told = further_items(unlabelled, preprocessing, str(train))
    return Parts(
        train=splits["train"],
        test=splits["test"],
        validation=splits.get("validation"),
        unlabelled=more,
        preprocessing=preprocessing,
        source=str(train),
        notes=(*(note for one in read.values() for note in one.notes), *told),
        as_given=AsGiven(classes=classes),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What a file holds, and what is to know of it."""

    x: Any
    y: NDArray[Any]
    notes: tuple[str, ...]


def _check_one_type(read: Mapping[str, _Part], paths: Mapping[str, Path]) -> None:
    x = read["train"].x
    for part, other in read.items():
        if not isinstance(other.x, NamedArrays) and other.x.dtype != x.dtype:
            raise DataError(
                f"x is {x.dtype} in {paths['train']} but {other.x.dtype} in {paths[part]}",
                hint="store both in one type, on one scale",
            )


def _of_one_input(
    x: NDArray[Any], where: str, mean: Any, std: Any, vocabulary: Any
) -> Preprocessing:
    for option, value in {"mean": mean, "std": std, "vocabulary": vocabulary}.items():
        if isinstance(value, Mapping):
            raise DataError(
                f"{where}: `{option}` names inputs, and items have one, `x`",
                hint=f"give its own: `{option}: [0.5]`; several inputs are arrays named as the "
                "parameters of `forward`",
            )
    preprocessing = Preprocessing(
        shape=tuple(x.shape[1:]),
        scale=BYTE_SCALE if x.dtype == np.uint8 else 1.0,
        mean=tuple(mean or [0.0]),
        std=tuple(std or [1.0]),
    )
    if x.dtype not in TOKEN_TYPES:
        return preprocessing
    _refuse_normalization(mean, std, where)
    return replace(preprocessing, dtype="int64", vocabulary=vocabulary or int(x.max(initial=0)) + 1)


def _check_apart(paths: Mapping[str, Path]) -> None:
    known: dict[Path, str] = {}
    for part, path in paths.items():
        other = known.setdefault(path.resolve(), part)
        if other != part:
            raise DataError(
                f"{other} and {part} are the same file: {path}",
                hint=f"keep {part} items out of {other}",
            )


def _refuse_normalization(mean: object, std: object, where: str) -> None:
    if mean is not None or std is not None:
        raise DataError(
            f"{where} holds token ids, which have no mean and no std",
            hint="leave `mean` and `std` out",
        )


def _part(path: Path) -> _Part:
    found = members_of(path)
    inputs = [name for name in found if name != "y"]
    if "x" not in found and "y" in found and len(inputs) > 1:
        arrays = {name: found[name]() for name in inputs}
        return _Part(x=named_arrays(arrays, where=str(path)), y=found["y"](), notes=())
    for key in KEYS:
        if key not in found:
            names = ", ".join(f"`{name}`" for name in sorted(found)) or "nothing"
            raise DataError(
                f"{path} has no `{key}`, found {names}",
                hint=_renamed(found, path)
                or f"give {FORMS}; several inputs are arrays named as "
                "the parameters of `forward`, beside `y`",
            )
    x, y = found["x"](), found["y"]()
    is_tokens = x.ndim == 2 and x.dtype in TOKEN_TYPES
    if not is_tokens and (x.ndim not in (3, 4, 5) or x.dtype not in FLOAT_TYPES):
        raise DataError(
            f"{path}: x is {x.dtype} of shape {tuple(x.shape)}; it must be uint8 or float32, "
            "(N, channels, height, width), (N, channels, length) or (N, channels, frames, height, "
            "width); or int32 or int64, (N, tokens)",
            hint=_hint(x),
        )
    others = ", ".join(f"`{name}`" for name in sorted(set(found) - set(KEYS)))
    notes = [f"{path}: of {others} nothing is read, only `x` and `y`"] if others else []
    return _Part(x=x, y=y, notes=tuple(notes))


def _renamed(found: Mapping[str, Any], path: Path) -> str | None:
    """Return how two arrays of other names are written again, None where it is not so plain."""
    names = sorted(found, key=lambda name: name.lower() not in ITEMS_AS_CALLED)
    if path.suffix != ".npz" or len(names) != 2 or names[0].lower() not in ITEMS_AS_CALLED:
        return None
    return (
        f"give them these names: `d = np.load({path.name!r}); np.savez({path.name!r}, "
        f"x=d[{names[0]!r}], y=d[{names[1]!r}])`"
    )


def _hint(x: NDArray[Any]) -> str:
    """Return what to change, for the type and for the shape that were found."""
    if x.ndim == 2 and x.dtype.kind in "iu":
        return "token ids are int64, `x = x.astype('int64')`; signals have channels, `x[:, None]`"
    hints = [] if x.dtype in FLOAT_TYPES else [type_hint(x)]
    if x.ndim == 2:
        hints.append("one row an item is a signal of one channel: `x = x[:, None]`")
    elif x.ndim < 2:
        hints.append("an item has a channel axis and at least one other")
    elif x.ndim > 5:
        hints.append(f"an item of {x.ndim - 1} axes is neither an image, a signal nor a clip")
    return "; ".join(hints)
