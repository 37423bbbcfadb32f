"""Items without labels beside the training part: a folder of images, or an array."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.array_files import items_of
from kdeploy.data.check import check_items
from kdeploy.data.contract import Dataset, Preprocessing, Split
from kdeploy.data.decoded import BACKGROUND, DecodedImages, Form, decoded_images
from kdeploy.data.image_files import ENDINGS, images_in, sentences
from kdeploy.data.rows import Joined, Rows, pieces
from kdeploy.errors import DataError

NO_LABEL = -1
BYTE_SCALE = 1 / 255  # uint8 to 0..1


def with_unlabelled(data: Dataset, path: Path) -> Dataset:
    """Return the data with further items in its training part, all of them labelled -1.

    Args:
        data: Whose preprocessing the items get.
        path: A folder of images at any depth, resized as the data's are; or a .npy, or a .npz
            with `x`, of the data's item shape and type.

    Raises:
        FileMissing: there is no such file or folder.
        DataError: it holds nothing, or what does not fit the data.
        Unavailable: the cache of decoded images cannot be written.
    """
    train = data.train
    if train.y.ndim == 2 and data.preprocessing.is_tokens:
        raise DataError(
            f"{path}: the labels of {data.name} are of tokens, and items without labels are taken "
            "beside labels of items only",
            hint="give the further text a label of its own for each token: its next one",
        )
    if train.y.ndim != 1 or train.y.dtype != np.int64:
        raise DataError(
            f"{path}: items without labels are taken beside classes only, and the targets of "
            f"{data.name} are {train.y.dtype} of shape {tuple(train.y.shape)}",
            hint="leave the further items out, or give them targets",
        )
    x, key, told = further_items(path, data.preprocessing, data.name)
    if x.dtype != train.x.dtype:
        raise DataError(
            f"{path}: x is {x.dtype}, the training part of {data.name} is {train.x.dtype}",
            hint=f"store it as {train.x.dtype}, on the same scale",
        )
    check_items(x, data.preprocessing, f"unlabelled items ({path})")
    more = Rows(x, np.arange(len(x)))  # known by the key: it need not be read to tell it apart
    parts = (train.x, more)
    labels = np.concatenate([train.y, np.full(len(x), NO_LABEL, np.int64)])
    joined: Any = Joined(parts)  # type: ignore[arg-type]
    return replace(
        data,
        train=Split(x=joined, y=labels, origin=f"{train.origin} and {path}"),
        fingerprint=hashlib.sha256(f"{data.fingerprint} {key}".encode()).hexdigest(),
        notes=(*data.notes, *told),
    )


def further_items(
    path: Path, known: Preprocessing, name: str
) -> tuple[NDArray[Any], str, list[str]]:
    """Return items as the data's are stored, the key of their contents, and what is to know.

    Args:
        path: A folder of images at any depth, or a file or folder of arrays.
        known: How the data's items become inputs.
        name: Of the data, for messages.
    """
    if path.is_dir() and not (path / "x.npy").is_file():
        return _images(path, known, name)
    x = items_of(path)
    digest = hashlib.sha256(f"{x.dtype} {x.shape}".encode())
    for _, piece in pieces(x):
        digest.update(np.ascontiguousarray(piece).data)
    return x, digest.hexdigest(), []


def images_of(path: Path, form: Form) -> tuple[DecodedImages, list[str]]:
    """Return the images at any depth of a folder, and what people should know of them.

    Raises:
        DataError: it holds none, or one that cannot be decoded.
    """
    found = images_in(path)
    left_out = sentences(found.left_out, path)
    if not found.images:
        raise DataError(
            "\n".join([f"{path} holds no images", *left_out]),
            hint=f"they end in {', '.join(sorted(ENDINGS))}",
        )
    decoded = decoded_images(path, found.images, form)
    return decoded, [*left_out, *decoded.sentences(path, form)]


def _images(path: Path, known: Preprocessing, name: str) -> tuple[NDArray[Any], str, list[str]]:
    shape = known.shape
    if len(shape) != 3 or shape[0] not in (1, 3) or known.scale != BYTE_SCALE:
        raise DataError(
            f"{path} is a folder of images, and {name} has no images of bytes",
            hint="give a .npy or .npz of the data's own shape and type",
        )
    background = known.background or BACKGROUND
    form = Form(size=(shape[1], shape[2]), channels=shape[0], background=background)
    decoded, told = images_of(path, form)
    return decoded.x, decoded.key, told
