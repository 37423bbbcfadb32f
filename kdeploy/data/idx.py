"""Read IDX files, plain or gzip: the format of MNIST, its header and its bytes.

Y. LeCun, C. Cortes and C. Burges, the MNIST database: two zero bytes, the type (8 = unsigned
byte), the number of axes, the size of each axis as a big-endian 32-bit number, then the values.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.errors import DataError

UNSIGNED_BYTE = 8  # the format's code for the type of its values
_AGAIN = "the file is damaged: copy or download it again"


def read_idx(path: Path, *, axes: int) -> NDArray[np.uint8]:
    """Return the array in an IDX file of unsigned bytes with `axes` axes.

    Raises:
        DataError: it is not gzip, not IDX, of another type, or cut off.
    """
    content = _content(path)
    if len(content) < 4 + 4 * axes or content[:4] != bytes([0, 0, UNSIGNED_BYTE, axes]):
        raise DataError(
            f"{path} is not an IDX file of bytes with {axes} axes: it begins with "
            f"{content[:4].hex(' ') or 'nothing'}",
            hint=_AGAIN,
        )
    shape = tuple(int(n) for n in np.frombuffer(content, dtype=">u4", count=axes, offset=4))
    values: NDArray[Any] = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * axes)
    if values.size != math.prod(shape):
        raise DataError(
            f"{path} should hold {math.prod(shape)} values for the shape {shape} in its header, "
            f"found {values.size}",
            hint=_AGAIN,
        )
    return values.reshape(shape)


def _content(path: Path) -> bytearray:
    """Return the plain bytes, in a writable buffer so that arrays on it are writable too."""
    if path.suffix != ".gz":
        return bytearray(path.read_bytes())
    try:
        with gzip.open(path) as file:
            return bytearray(file.read())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be unpacked: {error}", hint=_AGAIN) from error
