"""Folders of images: one sub-folder a class, PNG, JPEG and whatever else Pillow reads."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.contract import Parts, Preprocessing, Split, dataset
from kdeploy.data.decoded import ENDINGS, DecodedImages, decoded_images, images_in
from kdeploy.data.statistics import channel_statistics
from kdeploy.errors import DataError, FileMissing

_LAYOUT = "expected FOLDER/CLASS/IMAGE, e.g. train/cat/0001.jpg"


@dataset()
def image_folder(
    *,
    train: Path,
    test: Path,
    size: tuple[int, int],
    channels: Literal[1, 3] = 3,
    mean: list[float] | None = None,
    std: list[float] | None = None,
) -> Parts:
    """Return both folders' images, resized (bilinear), as a memory-mapped file in the cache.

    The cache is keyed by what the image files contain. EXIF orientation is respected.

    Args:
        train: Folder with one sub-folder a class, images at any depth in it.
        test: The same for the test part, with the same class folders.
        size: Height and width in pixels that every image is brought to.
        channels: 1 for grey, 3 for colour.
        mean: Per channel, of values in 0..1; left out, that of the training images.
        std: Per channel, of values in 0..1; left out, that of the training images.
    """
    if min(size) < 1:
        raise DataError(f"`size` is {size}", hint="give height and width, e.g. `size: [32, 32]`")
    files = {root: _images_by_class(root) for root in (train, test)}
    _check_same_classes(train, test, files)
    classes = tuple(files[train])
    decoded = [_decoded(root, files[root], size, channels) for root in (train, test)]
    measured = channel_statistics(decoded[0].x)
    return Parts(
        train=Split(x=decoded[0].x, y=_labels(files[train]), origin=str(train)),
        test=Split(x=decoded[1].x, y=_labels(files[test]), origin=str(test)),
        preprocessing=Preprocessing(
            shape=(channels, *size),
            scale=1 / 255,
            mean=tuple(mean or measured[0]),
            std=tuple(std or measured[1]),
            resize="bilinear",
            classes=classes,
        ),
        source=str(train),
        fingerprint=hashlib.sha256("".join(d.key for d in decoded).encode()).hexdigest(),
    )


def _images_by_class(root: Path) -> dict[str, list[Path]]:
    if not root.is_dir():
        raise FileMissing(f"there is no folder {root}", hint=_LAYOUT)
    folders = sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))
    if not folders:
        raise DataError(f"{root} holds no class folders", hint=_LAYOUT)
    classes = {folder.name: images_in(folder) for folder in folders}
    empty = [name for name, images in classes.items() if not images]
    if empty:
        raise DataError(
            f"{root / empty[0]} holds no images",
            hint=f"add images ({', '.join(sorted(ENDINGS))}) or remove the folder",
        )
    return classes


def _check_same_classes(train: Path, test: Path, files: dict[Path, dict[str, list[Path]]]) -> None:
    if train.resolve() == test.resolve():
        raise DataError(
            f"train and test are the same folder: {train}", hint="keep test images out of training"
        )
    for one, other in ((train, test), (test, train)):
        extra = sorted(set(files[one]) - set(files[other]))
        if extra:
            raise DataError(
                f"class folder `{extra[0]}` is in {one} but not in {other}",
                hint="train and test must have the same class folders",
            )


def _decoded(
    root: Path, classes: dict[str, list[Path]], size: tuple[int, int], channels: int
) -> DecodedImages:
    files = [file for images in classes.values() for file in images]
    return decoded_images(root, files, size=size, channels=channels)


def _labels(classes: dict[str, list[Path]]) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(classes)), [len(images) for images in classes.values()])
