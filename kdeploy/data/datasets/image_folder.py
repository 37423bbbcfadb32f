"""Folders of images: one sub-folder a class, PNG, JPEG and whatever else Pillow reads."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.contract import Parts, Preprocessing, Split, dataset
from kdeploy.data.decoded import DecodedImages, Form, decoded_images
from kdeploy.data.further_items import images_of
from kdeploy.data.image_files import (
    ENDINGS,
    Found,
    beside_folders,
    images_in,
    same_files,
    sentences,
)
from kdeploy.data.statistics import channel_statistics
from kdeploy.errors import DataError, FileMissing

_LAYOUT = "expected FOLDER/CLASS/IMAGE, e.g. train/cat/0001.jpg"
Classes = dict[str, Found]
"""What each class folder holds, by its name."""


@dataset()
def image_folder(
    *,
    train: Path,
    test: Path,
    validation: Path | None = None,
    unlabelled: Path | None = None,
    size: tuple[int, int],
    channels: Literal[1, 3] = 3,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    background: tuple[int, int, int] = (255, 255, 255),
) -> Parts:
    """Return both folders' images, resized (bilinear), as a memory-mapped file in the cache.

    The cache is keyed by what the image files contain. EXIF orientation is respected, links are
    followed, and every file that is passed over is told.

    Args:
        train: Folder with one sub-folder a class, images at any depth in it.
        test: The same for the test part, with the same class folders.
        validation: The same for the validation part; left out, it is held out of train.
        unlabelled: Folder of images at any depth that INT8 is calibrated on; left out, train.
        size: Height and width in pixels that every image is brought to.
        channels: 1 for grey, 3 for colour.
        mean: Per channel, of values in 0..1; left out, that of the training images.
        std: Per channel, of values in 0..1; left out, that of the training images.
        background: Red, green and blue, 0..255, that transparent pixels are laid on.
    """
    if min(size) < 1:
        raise DataError(f"`size` is {size}", hint="give height and width, e.g. `size: [32, 32]`")
    if not 0 <= min(background) <= max(background) <= 255:
        raise DataError(
            f"`background` is {background}", hint="red, green and blue, each from 0 to 255"
        )
    roots = {"train": train, "test": test} | ({"validation": validation} if validation else {})
    classes = {part: _classes(root) for part, root in roots.items()}
    _check_same_classes(roots, classes)
    _check_apart(roots, classes)
    form = Form(size=size, channels=channels, background=background)
    decoded = {part: _decoded(roots[part], found, form) for part, found in classes.items()}
    splits = {
        part: Split(x=decoded[part].x, y=_labels(found), origin=str(roots[part]))
        for part, found in classes.items()
    }
    measured = channel_statistics(decoded["train"].x)
    more, told = images_of(unlabelled, form) if unlabelled else (None, [])
    keys = [one.key for one in decoded.values()] + ([more.key] if more else [])
    return Parts(
        train=splits["train"],
        test=splits["test"],
        validation=splits.get("validation"),
        unlabelled=more.x if more else None,
        preprocessing=Preprocessing(
            shape=(channels, *size),
            scale=1 / 255,
            mean=tuple(mean or measured[0]),
            std=tuple(std or measured[1]),
            resize="bilinear",
            background=tuple(background),
            classes=tuple(classes["train"]),
        ),
        source=str(train),
        fingerprint=hashlib.sha256("".join(keys).encode()).hexdigest(),
        notes=(
            *(
                note
                for part, root in roots.items()
                for note in _notes(root, classes[part], decoded[part], form)
            ),
            *told,
        ),
    )


def _classes(root: Path) -> Classes:
    if not root.is_dir():
        raise FileMissing(f"there is no folder {root}", hint=_LAYOUT)
    folders = sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))
    if not folders:
        raise DataError(f"{root} holds no class folders", hint=_LAYOUT)
    classes = {folder.name: images_in(folder) for folder in folders}
    empty = [name for name, found in classes.items() if not found.images]
    if empty:
        left_out = sentences(classes[empty[0]].left_out, root / empty[0])
        raise DataError(
            "\n".join([f"{root / empty[0]} holds no images", *left_out]),
            hint=f"add images ({', '.join(sorted(ENDINGS))}) or remove the folder",
        )
    return classes


def _check_same_classes(roots: dict[str, Path], classes: dict[str, Classes]) -> None:
    train = roots["train"]
    for part in [part for part in roots if part != "train"]:
        if train.resolve() == roots[part].resolve():
            raise DataError(
                f"train and {part} are the same folder: {train}",
                hint=f"keep {part} images out of training",
            )
        for one, other in (("train", part), (part, "train")):
            extra = sorted(set(classes[one]) - set(classes[other]))
            if extra:
                raise DataError(
                    f"class folder `{extra[0]}` is in {roots[one]} but not in {roots[other]}",
                    hint=f"train and {part} must have the same class folders",
                )


def _check_apart(roots: dict[str, Path], classes: dict[str, Classes]) -> None:
    """Refuse one file in two classes or two parts; only links can do that."""
    groups = [
        (str(roots[part] / name), found.images)
        for part, of_part in classes.items()
        for name, found in of_part.items()
    ]
    shared = same_files(groups)
    if shared is not None:
        one, other, path = shared
        raise DataError(
            f"{path} is in {one} too: a link makes one file stand in both",
            hint=f"remove the link: let an image be in {one} or in {other}",
        )


def _decoded(root: Path, classes: Classes, form: Form) -> DecodedImages:
    files = [file for found in classes.values() for file in found.images]
    return decoded_images(root, files, form)


def _labels(classes: Classes) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(classes)), [len(found.images) for found in classes.values()])


def _notes(root: Path, classes: Classes, decoded: DecodedImages, form: Form) -> list[str]:
    left_out = [*beside_folders(root), *(one for f in classes.values() for one in f.left_out)]
    return [*sentences(left_out, root), *decoded.sentences(root, form)]
