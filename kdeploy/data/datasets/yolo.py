"""YOLO: a folder of pictures and one text file of boxes for each, `class cx cy width height`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from kdeploy.data.boxes import Box, Repairs, checked, padded
from kdeploy.data.contract import Parts, dataset
from kdeploy.data.decoded import Form
from kdeploy.data.image_files import images_in, sentences
from kdeploy.data.labels import classes_of
from kdeploy.data.letterbox import Placement
from kdeploy.data.pictures import Annotated, form_of, parts_of_pictures, pictures_of
from kdeploy.errors import DataError, FileMissing

COLUMNS = 5
SLACK = 0.01
"""So far a coordinate may lie outside of 0..1."""
_LINE = "a line is `class cx cy width height`, the box's centre and size as parts of the picture"


@dataset()
def yolo(
    *,
    train: Path,
    test: Path,
    validation: Path | None = None,
    classes: list[str] | int,
    size: tuple[int, int],
    channels: Literal[1, 3] = 3,
    letterbox: bool = True,
    mean: list[float] | None = None,
    std: list[float] | None = None,
) -> Parts:
    """Return pictures and boxes; `.../images/a.jpg` is annotated in `.../labels/a.txt`.

    A picture without a file of labels shows nothing. Polygons (more than five columns) become
    their boxes, a line that is there twice counts once; both are told.

    Args:
        train: Folder of pictures at any depth; `labels` in place of its last `images` has the
            labels, or the folder itself.
        test: The same for the test part.
        validation: The same for the validation part; left out, it is held out of train.
        classes: Names of the classes or their number.
        size: Height and width in pixels that every picture is brought to.
        channels: 1 for grey, 3 for colour.
        letterbox: Keep the shape of pictures, between grey bars; else they are stretched.
        mean: Per channel, of values in 0..1; left out, that of the training pictures.
        std: Per channel, of values in 0..1; left out, that of the training pictures.
    """
    form = form_of(size, channels, letterbox=letterbox)
    names = classes_of(classes, {})
    folders = {"train": train, "test": test} | ({"validation": validation} if validation else {})
    parts = {part: _part(folder, names, form) for part, folder in folders.items()}
    return parts_of_pictures(parts, form, classes=names, mean=mean, std=std)


def _part(folder: Path, classes: Sequence[str], form: Form) -> Annotated:
    if not folder.is_dir():
        raise FileMissing(f"there is no folder {folder}", hint="expected .../images with pictures")
    found = images_in(folder)
    pictures = pictures_of(folder, found.images, form, named_by=folder)
    left_out = [one for one in found.left_out if one.path.suffix != ".txt"]
    repairs = Repairs()
    kept = [
        _boxes(labels_file(picture), place, classes, repairs)
        for picture, place in zip(found.images, pictures.places, strict=True)
    ]
    if not any(kept):
        raise DataError(
            f"no picture of {folder} has a label",
            hint=f"labels of {found.images[0]} are looked for in {labels_file(found.images[0])}",
        )
    return Annotated(
        x=pictures.decoded.x,
        y=padded(kept, pictures.places),
        key=pictures.decoded.key,
        origin=str(folder),
        notes=(*sentences(left_out, folder), *pictures.notes, *repairs.sentences()),
    )


def labels_file(picture: Path) -> Path:
    """Return where the labels of a picture stand."""
    parts = list(picture.parts)
    # The last `images` of the path, as the YOLO family takes it: a folder above may be called so
    # too.
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            return Path(*parts[:place], "labels", *parts[place + 1 :]).with_suffix(".txt")
    return picture.with_suffix(".txt")


def _boxes(path: Path, place: Placement, classes: Sequence[str], repairs: Repairs) -> list[Box]:
    if not path.is_file():
        repairs.add("pictures have no file of labels and show nothing", str(path))
        return []
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text: byte {error.start}", hint=_LINE) from None
    kept: list[Box] = []
    seen = set[tuple[float, ...]]()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        values = _numbers(line, where)
        if values in seen:
            repairs.add("lines were there twice", where)
            continue
        seen.add(values)
        box = checked(_box(values, place.source, classes, where, repairs), place.source, repairs)
        if box is not None:
            kept.append(box)
    return kept


def _numbers(line: str, where: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, line.split()))
    except ValueError:
        comma = "," in line
        raise DataError(
            f"{where}: `{line.strip():.60}` are not numbers",
            hint="write points, not commas, in numbers, and spaces between them"
            if comma
            else _LINE,
        ) from None


def _box(
    values: tuple[float, ...],
    source: tuple[int, int],
    classes: Sequence[str],
    where: str,
    repairs: Repairs,
) -> Box:
    label = _label(values, classes, where)
    rest = values[1:]
    if not all(-SLACK <= value <= 1 + SLACK for value in rest):
        pixels = max(rest) > 2
        raise DataError(
            f"{where}: {max(rest, key=abs):g} is no part of the picture, from 0 to 1",
            hint="divide by the picture's width and height: these are pixels" if pixels else _LINE,
        )
    height, width = source
    if len(values) == COLUMNS:
        x, y, w, h = rest
        x1, y1, x2, y2 = x - w / 2, y - h / 2, x + w / 2, y + h / 2
        if min(x1, y1) < -SLACK or max(x2, y2) > 1 + SLACK:
            raise DataError(
                f"{where}: the box reaches from ({x1:.3f}, {y1:.3f}) to ({x2:.3f}, {y2:.3f}), "
                "beyond 0..1",
                hint="the first two numbers are the centre, not a corner",
            )
    elif len(values) > COLUMNS + 1 and len(values) % 2:
        xs, ys = rest[0::2], rest[1::2]
        x1, y1, x2, y2 = min(xs), min(ys), max(xs), max(ys)
        repairs.add("polygons became their boxes", where)
    else:
        raise DataError(f"{where}: {len(values)} numbers", hint=_LINE)
    inside = [min(max(v, 0.0), 1.0) for v in (x1, y1, x2, y2)]
    scaled = [v * n for v, n in zip(inside, (width, height, width, height), strict=True)]
    return Box(corners=(scaled[0], scaled[1], scaled[2], scaled[3]), label=label, where=where)


def _label(values: tuple[float, ...], classes: Sequence[str], where: str) -> int:
    label = values[0] if values else -1.0
    if label != int(label) or not 0 <= label < len(classes):
        raise DataError(
            f"{where}: there is no class {label:g}, there are {len(classes)}: "
            f"0..{len(classes) - 1}",
            hint="classes are counted from 0: `class - 1`"
            if label == len(classes)
            else "correct the class, or name it in `classes`",
        )
    return int(label)
