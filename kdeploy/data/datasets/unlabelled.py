"""Items without labels: INT8 is calibrated on them, files are compared and timed on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.array_files import items_of
from kdeploy.data.check import TOKEN_TYPES
from kdeploy.data.contract import NOT_COUNTED, Parts, Preprocessing, Split, dataset
from kdeploy.data.decoded import Form
from kdeploy.data.further_items import images_of
from kdeploy.data.rows import Rows
from kdeploy.data.split import stratified
from kdeploy.errors import DataError

BYTE_SCALE = 1 / 255  # uint8 to 0..1
FEWEST = 4
"""To calibrate on, to compare on and to time on, one at least of each."""
TEST_FRACTION, SEED = 0.1, 0


@dataset()
def unlabelled(
    *,
    items: Path,
    size: tuple[int, int] | None = None,
    channels: Literal[1, 3] = 3,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    background: tuple[int, int, int] = (255, 255, 255),
    classes: list[str] | None = None,
    vocabulary: int | None = None,
) -> Parts:
    """Return the items; a tenth is the test part, and no accuracy can be measured on it.

    `mean` and `std` are those that the model was trained with: images and bytes cannot tell them.

    Args:
        items: A folder of images at any depth, a .npy, or a file with `x`.
        size: Of images, height and width in pixels that every one is brought to.
        channels: Of images, 1 for grey, 3 for colour.
        mean: Subtracted, one number or one a channel; of bytes, of values in 0..1.
        std: Divided by, one number or one a channel; of bytes, of values in 0..1.
        background: Red, green and blue, 0..255, that transparent pixels are laid on.
        classes: Names of the model's classes, for the bundle; left out, they have numbers.
        vocabulary: Of token ids, how many there are; left out, up to the largest id.
    """
    x, key, told, is_images = _read(items, size, channels, background)
    if len(x) < FEWEST:
        raise DataError(f"{items} has {len(x)} items", hint=f"give {FEWEST} or more")
    if x.dtype == np.uint8 and (mean is None or std is None):
        raise DataError(
            f"{items} holds bytes, and `mean` or `std` is not given",
            hint="give both as the model was trained, of values in 0..1: ImageNet's are "
            "`mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]`; none is `[0]` and `[1]`",
        )
    is_tokens = x.ndim == 2 and x.dtype in TOKEN_TYPES
    kept, held_out = stratified(np.zeros(len(x), np.int64), fraction=TEST_FRACTION, seed=SEED)
    return Parts(
        train=_split(x, kept, items),
        test=_split(x, held_out, items),
        preprocessing=Preprocessing(
            shape=tuple(x.shape[1:]),
            scale=BYTE_SCALE if x.dtype == np.uint8 else 1.0,
            mean=tuple(mean or [0.0]),
            std=tuple(std or [1.0]),
            resize="bilinear" if is_images else "",
            background=tuple(background) if is_images else (),
            classes=tuple(classes or ()),
            dtype="int64" if is_tokens else "float32",
            vocabulary=(vocabulary or int(x.max(initial=0)) + 1) if is_tokens else 0,
        ),
        source=str(items),
        fingerprint=key,
        notes=(*told, f"{items}: items without labels, on which no accuracy can be measured"),
    )


def _read(
    items: Path, size: tuple[int, int] | None, channels: int, background: tuple[int, int, int]
) -> tuple[NDArray[Any], str, list[str], bool]:
    """Return the items, a key of their contents if it is known, and what is to know of them."""
    is_images = items.is_dir() and not (items / "x.npy").is_file()
    if not is_images:
        return items_of(items), "", [], False
    if size is None or min(size) < 1:
        raise DataError(
            f"{items} is a folder of images, and `size` is {size}",
            hint="give height and width that the model takes, e.g. `size: [224, 224]`",
        )
    form = Form(size=size, channels=channels, background=background)
    decoded, told = images_of(items, form)
    return decoded.x, decoded.key, told, True


def _split(x: NDArray[Any], rows: NDArray[np.int64], items: Path) -> Split:
    chosen = cast("NDArray[Any]", Rows(x, rows))
    return Split(x=chosen, y=np.full(len(rows), NOT_COUNTED, np.int64), origin=str(items))
