"""Masks: a folder of pictures, and one of masks of their names, a class number a pixel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.contract import Parts, dataset
from kdeploy.data.decoded import DecodedImages, Form, decoded_images
from kdeploy.data.image_files import images_in, sentences
from kdeploy.data.labels import classes_of
from kdeploy.data.mask_files import IGNORED, decoded_mask
from kdeploy.data.pictures import Annotated, form_of, parts_of_pictures, paths_of, pictures_of
from kdeploy.data.rows import pieces
from kdeploy.errors import DataError

KEYS = ("images", "masks")


@dataset()
def masks(
    *,
    train: dict[str, Path],
    test: dict[str, Path],
    validation: dict[str, Path] | None = None,
    classes: list[str] | int,
    size: tuple[int, int],
    channels: Literal[1, 3] = 3,
    letterbox: bool = False,
    mean: list[float] | None = None,
    std: list[float] | None = None,
) -> Parts:
    """Return pictures and masks; 255 stands for pixels that are neither learned nor judged.

    A mask is a PNG, TIFF or other lossless file of grey numbers or a palette's indices, in the size
    of its picture, and is resized to the nearest pixel.

    Args:
        train: `{images: FOLDER, masks: FOLDER}`; a mask has the name of its picture, but for the
            ending.
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
    given = {"train": train, "test": test} | ({"validation": validation} if validation else {})
    files = {part: paths_of(paths, KEYS, where=f"data.{part}") for part, paths in given.items()}
    parts = {
        part: _part(paths["images"], paths["masks"], names, form) for part, paths in files.items()
    }
    return parts_of_pictures(parts, form, classes=names, mean=mean, std=std)


def _part(folder: Path, of_masks: Path, classes: Sequence[str], form: Form) -> Annotated:
    found = images_in(folder)
    own = _masks_of(found.images, folder, of_masks)
    pictures = pictures_of(folder, found.images, form, named_by=folder)
    decoded = decoded_images(
        of_masks, own, replace(form, channels=1, kind="mask"), decode=decoded_mask
    )
    for picture, mask, wanted, size in zip(
        found.images, own, pictures.decoded.sizes, decoded.sizes, strict=True
    ):
        if wanted != size:
            raise DataError(
                f"{mask} has {size[1]} x {size[0]} pixels, its picture {picture} has "
                f"{wanted[1]} x {wanted[0]}"
                + (" when it is upright (EXIF)" if size == wanted[::-1] else ""),
                hint="draw the mask on the upright picture"
                if size == wanted[::-1]
                else "give the mask the size of its picture",
            )
    y = decoded.x[:, 0]
    _check_classes(y, own, classes)
    return Annotated(
        x=pictures.decoded.x,
        y=y,
        key=pictures.decoded.key + decoded.key,
        origin=str(folder),
        notes=(
            *sentences(found.left_out, folder),
            *pictures.notes,
            *_without_classes(decoded, of_masks),
        ),
    )


def _masks_of(images: Sequence[Path], folder: Path, of_masks: Path) -> list[Path]:
    by_name: dict[Path, list[Path]] = {}
    for mask in images_in(of_masks).images:
        by_name.setdefault(mask.relative_to(of_masks).with_suffix(""), []).append(mask)
    names = [image.relative_to(folder).with_suffix("") for image in images]
    twice = [name for name, count in Counter(names).items() if count > 1]
    for name in [*twice, *(name for name in names if len(by_name.get(name, ())) != 1)]:
        count = len(by_name.get(name, ()))
        raise DataError(
            f"`{name}` of {folder} is the name of {names.count(name)} pictures and {count} masks "
            f"of {of_masks}",
            hint="each picture has one mask of its name, whatever the endings",
        )
    return [by_name[name][0] for name in names]


def _check_classes(y: NDArray[Any], files: Sequence[Path], classes: Sequence[str]) -> None:
    for start, piece in pieces(y):
        is_wrong = (piece >= len(classes)) & (piece != IGNORED)
        if is_wrong.any():
            item = int(np.flatnonzero(is_wrong.any(axis=(1, 2)))[0])
            value = int(piece[item][is_wrong[item]][0])
            raise DataError(
                f"{files[start + item]}: there is no class {value}, there are {len(classes)}: "
                f"0..{len(classes) - 1}, and {IGNORED} for none",
                hint="name all classes in `classes`, the background too; a mask of 0 and 255 has "
                "to say 0 and 1",
            )


def _without_classes(decoded: DecodedImages, folder: Path) -> list[str]:
    empty = [
        start + int(row)
        for start, piece in pieces(decoded.x)
        for row in np.flatnonzero((piece == IGNORED).reshape(len(piece), -1).all(axis=1))
    ]
    return [f"{len(empty)} masks of {folder} say nothing of any pixel"] if empty else []
