"""Pictures that a file of annotations names: decoded in its order, with where each one lies now."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.contract import Parts, Preprocessing, Split
from kdeploy.data.decoded import DecodedImages, Form, decoded_images
from kdeploy.data.letterbox import Placement
from kdeploy.data.statistics import channel_statistics
from kdeploy.errors import DataError, FileMissing, UnknownName


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotated:
    """The pictures of one part with what is annotated, in the order of the pictures."""

    x: NDArray[Any]
    y: NDArray[Any]
    key: str
    """Of the pictures' contents."""
    origin: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """Decoded pictures and their places in the input."""

    decoded: DecodedImages
    places: tuple[Placement, ...]
    notes: tuple[str, ...]


def form_of(size: tuple[int, int], channels: Literal[1, 3], *, letterbox: bool) -> Form:
    """Return what all pictures are brought to.

    Raises:
        DataError: a size below 1.
    """
    if min(size) < 1:
        raise DataError(f"`size` is {size}", hint="give height and width, e.g. `size: [320, 320]`")
    return Form(size=size, channels=channels, letterbox=letterbox)


def pictures_of(folder: Path, files: Sequence[Path], form: Form, *, named_by: Path) -> Pictures:
    """Return the pictures, decoded now or before.

    Args:
        folder: Where they lie.
        files: The pictures.
        form: What they are brought to.
        named_by: The file or folder that names them, for messages.

    Raises:
        FileMissing: one is not there.
        DataError: there are none, or some cannot be decoded.
    """
    if not files:
        raise DataError(f"{named_by} names no pictures", hint="add pictures, or name another file")
    missing = [file for file in files if not file.is_file()]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise FileMissing(
            f"{named_by} names {missing[0]}, which is not there{more}",
            hint="add the picture, remove what is annotated on it, or mend the folder",
        )
    decoded = decoded_images(folder, files, form)
    places = (Placement.of(s, form.size, letterbox=form.letterbox) for s in decoded.sizes)
    notes = tuple(decoded.sentences(folder, form))
    return Pictures(decoded=decoded, places=tuple(places), notes=notes)


def paths_of(given: Mapping[str, Path], keys: Sequence[str], *, where: str) -> dict[str, Path]:
    """Return the paths of a part by key, all of which must be there.

    Raises:
        UnknownName: a key that is none.
        DataError: one is missing.
        FileMissing: nothing lies at a path.
    """
    for key in given:
        if key not in keys:
            raise UnknownName.among("key", key, keys, where=where)
    for key in keys:
        if key not in given:
            raise DataError(
                f"{where} has no `{key}`",
                hint=f"write `{{{', '.join(f'{k}: PATH' for k in keys)}}}`",
            )
        if not given[key].exists():
            raise FileMissing(f"{where}.{key}: there is no {given[key]}", hint="mend the path")
    return {key: given[key] for key in keys}


def parts_of_pictures(
    parts: Mapping[str, Annotated],
    form: Form,
    *,
    classes: Sequence[str],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Parts:
    """Return annotated pictures as parts: normalised by their own mean and deviation unless given.

    Args:
        parts: `train`, `test` and if there is one `validation`.
        form: What the pictures were brought to.
        classes: Names.
        mean: Per channel, of values in 0..1; None: that of the training pictures.
        std: Per channel, of values in 0..1; None: that of the training pictures.
    """
    origins = [one.origin for one in parts.values()]
    if len(set(origins)) < len(origins):
        twice = next(one for one in origins if origins.count(one) > 1)
        raise DataError(
            f"two parts are the same: {twice}", hint="keep test pictures out of training"
        )
    measured = channel_statistics(parts["train"].x) if mean is None or std is None else None
    splits = {
        name: Split(x=one.x, y=one.y, origin=one.origin) for name, one in _of_one_width(parts)
    }
    digest = hashlib.sha256()
    for one in parts.values():
        digest.update(one.key.encode())
    return Parts(
        train=splits["train"],
        test=splits["test"],
        validation=splits.get("validation"),
        preprocessing=preprocessing_of(
            form, classes=classes, mean=mean, std=std, measured=measured
        ),
        source=parts["train"].origin,
        fingerprint=digest.hexdigest(),
        notes=tuple(note for one in parts.values() for note in one.notes),
    )


def preprocessing_of(
    form: Form,
    *,
    classes: Sequence[str],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    measured: tuple[tuple[float, ...], tuple[float, ...]] | None,
) -> Preprocessing:
    """Return how pictures of a form become inputs: by the mean and std given, else measured."""
    return Preprocessing(
        shape=(form.channels, *form.size),
        scale=1 / 255,
        mean=tuple(mean or (measured[0] if measured else ())),
        std=tuple(std or (measured[1] if measured else ())),
        resize="letterbox" if form.letterbox else "bilinear",
        background=tuple(form.background),
        classes=tuple(classes),
    )


def _of_one_width(parts: Mapping[str, Annotated]) -> list[tuple[str, Annotated]]:
    """Return the parts, lists of boxes filled up to the longest of all."""
    from dataclasses import replace

    longest = max(one.y.shape[1] if one.y.ndim == 3 else 0 for one in parts.values())
    if not longest or any(one.y.ndim != 3 or one.y.shape[2] != 5 for one in parts.values()):
        return list(parts.items())
    return [(name, replace(one, y=_filled_up(one.y, longest))) for name, one in parts.items()]


def _filled_up(boxes: NDArray[Any], longest: int) -> NDArray[Any]:
    missing = longest - boxes.shape[1]
    return np.pad(boxes, ((0, 0), (0, missing), (0, 0)), constant_values=-1)
