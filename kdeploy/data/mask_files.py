"""Masks of classes, one image file beside each picture: read as numbers, never as colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kdeploy.data.decoded import Form, Picture
from kdeploy.data.letterbox import Placement
from kdeploy.errors import DataError

IGNORED = 255
"""The class of a pixel that is neither learned nor judged; bars of a letterbox have it too."""
LOSSY = ("JPEG", "MPO")
_INDICES = "save class numbers: a PNG of mode L or P, 0..254, 255 where no class is known"


def decoded_mask(path: Path, form: Form) -> Picture:
    """Return one mask (1, height, width) of class numbers; of a palette, its indices.

    Raises:
        DataError: it is damaged, lossy, coloured, or has numbers above 255.
    """
    from PIL import Image, ImageOps

    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty, 0 bytes", hint="replace or remove this mask")
    try:
        with Image.open(path) as image:
            kind, mode = image.format, image.mode
            upright = ImageOps.exif_transpose(image)
            values = np.asarray(upright)
    except Exception as error:  # Pillow's plugins raise errors of many kinds on damaged files
        raise DataError(f"{path} cannot be decoded: {error}", hint="replace this mask") from error
    if kind in LOSSY:
        raise DataError(f"{path} is a {kind}, which mixes the classes of neighbours", hint=_INDICES)
    if values.ndim != 2:
        raise DataError(f"{path} is coloured (mode {mode}), not a mask of classes", hint=_INDICES)
    if values.size and (values.max() > IGNORED or values.min() < 0):
        raise DataError(
            f"{path} holds class numbers from {values.min()} to {values.max()}", hint=_INDICES
        )
    grey = Image.fromarray(values.astype(np.uint8))
    place = Placement.of(values.shape, form.size, letterbox=form.letterbox)
    height, width = place.size
    whole = np.full((1, *form.size), IGNORED, np.uint8)
    whole[0, place.top : place.top + height, place.left : place.left + width] = np.asarray(
        grey.resize((width, height), Image.Resampling.NEAREST)
    )
    return Picture(pixels=whole, size=(values.shape[0], values.shape[1]))
