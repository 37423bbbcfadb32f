"""COCO: a folder of pictures and a JSON file of boxes, https://cocodataset.org/#format-data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kdeploy.data.boxes import Box, Repairs, checked, padded
from kdeploy.data.contract import Parts, dataset
from kdeploy.data.decoded import Form
from kdeploy.data.pictures import Annotated, form_of, parts_of_pictures, paths_of, pictures_of
from kdeploy.errors import DataError
from kdeploy.untrusted.json_document import json_file

KEYS = ("images", "annotations")
_FORMAT = "expected what https://cocodataset.org/#format-data has"


@dataset()
def coco(
    *,
    train: dict[str, Path],
    test: dict[str, Path],
    validation: dict[str, Path] | None = None,
    size: tuple[int, int],
    channels: Literal[1, 3] = 3,
    letterbox: bool = True,
    mean: list[float] | None = None,
    std: list[float] | None = None,
) -> Parts:
    """Return pictures and boxes; classes are the categories of train, in the order of their ids.

    A box that reaches up to a pixel over its picture is cut, one without area left out; both are
    told. Pictures without boxes stay.

    Args:
        train: `{images: FOLDER, annotations: FILE}`.
        test: The same for the test part.
        validation: The same for the validation part; left out, it is held out of train.
        size: Height and width in pixels that every picture is brought to.
        channels: 1 for grey, 3 for colour.
        letterbox: Keep the shape of pictures, between grey bars; else they are stretched.
        mean: Per channel, of values in 0..1; left out, that of the training pictures.
        std: Per channel, of values in 0..1; left out, that of the training pictures.
    """
    form = form_of(size, channels, letterbox=letterbox)
    given = {"train": train, "test": test} | ({"validation": validation} if validation else {})
    files = {part: paths_of(paths, KEYS, where=f"data.{part}") for part, paths in given.items()}
    read = {part: _read(paths["annotations"]) for part, paths in files.items()}
    categories = read["train"].categories
    for part, one in read.items():
        _check_alike(categories, one, part)
    parts = {part: _part(files[part]["images"], read[part], form) for part in files}
    return parts_of_pictures(parts, form, classes=list(categories.values()), mean=mean, std=std)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Annotations:
    """What one file says."""

    path: Path
    categories: dict[int, str]
    """Names by id, in the order of ids."""
    images: tuple[Mapping[str, Any], ...]
    boxes: tuple[tuple[Box, ...], ...]
    """Of each image."""


def _read(path: Path) -> _Annotations:
    document = json_file(path)
    categories = {
        _whole(entry, "id", where): _text(entry, "name", where)
        for entry, where in _entries(document, "categories", path)
    }
    categories = dict(sorted(categories.items()))
    # COCO's ids have gaps (80 categories, ids to 90): labels follow their order.
    labels = {category: label for label, category in enumerate(categories)}
    images = dict[int, Mapping[str, Any]]()
    for entry, where in _entries(document, "images", path):
        number = _whole(entry, "id", where)
        _text(entry, "file_name", where)
        if number in images:
            raise DataError(f"{where}: the id {number} is there twice", hint="give each its own id")
        images[number] = entry
    boxes: dict[int, list[Box]] = {number: [] for number in images}
    known = set[int]()
    for entry, where in _entries(document, "annotations", path):
        number = _whole(entry, "id", where) if "id" in entry else -1 - len(known)
        if number in known:
            raise DataError(f"{where}: the id {number} is there twice", hint="give each its own id")
        known.add(number)
        image = _known(entry, "image_id", images, where)
        label = labels[_known(entry, "category_id", labels, where)]
        boxes[image].append(_box(entry, label, where))
    return _Annotations(
        path=path,
        categories=categories,
        images=tuple(images.values()),
        boxes=tuple(tuple(boxes[number]) for number in images),
    )


def _part(folder: Path, annotations: _Annotations, form: Form) -> Annotated:
    files = [folder / image["file_name"] for image in annotations.images]
    pictures = pictures_of(folder, files, form, named_by=annotations.path)
    repairs = Repairs()
    kept: list[list[Box]] = []
    # By the images of the file, not of the folder: what is not listed there is no part.
    for image, own, place in zip(
        annotations.images, annotations.boxes, pictures.places, strict=True
    ):
        _check_size(image, place.source, annotations.path)
        inside = (checked(box, place.source, repairs) for box in own)
        kept.append([box for box in inside if box is not None])
    return Annotated(
        x=pictures.decoded.x,
        y=padded(kept, pictures.places),
        key=pictures.decoded.key,
        origin=str(annotations.path),
        notes=(*pictures.notes, *repairs.sentences()),
    )


def _entries(document: Any, key: str, path: Path) -> list[tuple[Mapping[str, Any], str]]:
    """Return the entries of a list of the document, each with where it stands."""
    found = document.get(key) if isinstance(document, dict) else None
    if not isinstance(found, list) or (not found and key != "annotations"):
        raise DataError(f"{path} has no list `{key}` with entries", hint=_FORMAT)
    for place, entry in enumerate(found):
        if not isinstance(entry, dict):
            raise DataError(f"{path}: {key}[{place}] is {entry!r:.40}", hint=_FORMAT)
    return [(entry, f"{path}: {key}[{place}]") for place, entry in enumerate(found)]


def _whole(entry: Mapping[str, Any], key: str, where: str) -> int:
    value = entry.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(f"{where}: `{key}` is {value!r:.40}, not a whole number", hint=_FORMAT)
    return value


def _text(entry: Mapping[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise DataError(f"{where}: `{key}` is {value!r:.40}, not a text", hint=_FORMAT)
    return value


def _known(entry: Mapping[str, Any], key: str, known: Mapping[int, Any], where: str) -> int:
    value = _whole(entry, key, where)
    if value not in known:
        listed = ", ".join(map(str, list(known)[:8])) + (", ..." if len(known) > 8 else "")
        raise DataError(
            f"{where}: there is no `{key}` {value}; known: {listed}",
            hint="add what it names, or remove this annotation",
        )
    return value


def _box(entry: Mapping[str, Any], label: int, where: str) -> Box:
    found = entry.get("bbox")
    if (
        not isinstance(found, Sequence)
        or len(found) != 4
        or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in found)
    ):
        raise DataError(
            f"{where}: `bbox` is {found!r:.60}", hint="four numbers: x, y, width, height in pixels"
        )
    x, y, width, height = map(float, found)
    return Box(
        corners=(x, y, x + width, y + height),
        label=label,
        where=where,
        is_crowd=bool(entry.get("iscrowd", 0)),
    )


def _check_size(image: Mapping[str, Any], found: tuple[int, int], path: Path) -> None:
    said = (image.get("height"), image.get("width"))
    if None in said or said == found:
        return
    turned = said == (found[1], found[0])
    raise DataError(
        f"{path}: image {image['id']} ({image['file_name']}) has {said[1]} x {said[0]} pixels, the "
        f"file has {found[1]} x {found[0]}" + (" when it is upright (EXIF)" if turned else ""),
        hint="annotate pictures as people see them, or turn the pixels and drop the EXIF tag"
        if turned
        else "annotate the picture that is there: boxes are in its pixels",
    )


def _check_alike(categories: Mapping[int, str], other: _Annotations, part: str) -> None:
    if categories != other.categories:
        extra = sorted(set(categories.items()) ^ set(other.categories.items()))
        raise DataError(
            f"the categories of train and {part} differ ({other.path}), first in "
            f"{extra[0][0]}: `{extra[0][1]}`",
            hint="give all parts the same `categories`",
        )
