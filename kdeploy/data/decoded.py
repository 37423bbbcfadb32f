"""Decode image files once into one memory-mapped array of bytes in the cache.

Two files in the cache: a note named by what the file system says (paths, sizes, times) holds the
key of what the images contain; the array is named by that key. So an unchanged folder is not even
read, and a copied or touched one is read but not decoded again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.cache import cache_folder, no_room
from kdeploy.errors import DataError
from kdeploy.machine import allowed_cores

VERSION = "1"
"""Of what decoding does; a change makes old cache entries unused."""
FILES_AT_ONCE = 1024
ENDINGS = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedImages:
    """Images (N, channels, height, width), uint8, memory-mapped, and the key of their contents."""

    x: NDArray[np.uint8]
    key: str


def images_in(folder: Path) -> list[Path]:
    """Return the image files at any depth of a folder, hidden ones left out, in order."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in ENDINGS and not file.name.startswith(".") and file.is_file()
    )


def decoded_images(
    root: Path, files: Sequence[Path], *, size: tuple[int, int], channels: int
) -> DecodedImages:
    """Return all images in order, decoded now or before.

    Args:
        root: The folder that the names in the key are relative to.
        files: The images.
        size: Height and width that each is resized to.
        channels: 1 for grey, 3 for colour.

    Raises:
        DataError: an image cannot be decoded; it is named.
        Unavailable: the cache cannot be written.
    """
    folder = cache_folder("images")
    form = f"{VERSION} {channels} {size}"
    note = folder / f"{_sha256([form, str(root.resolve()), *map(_state, files)])}.key"
    key = note.read_text() if note.is_file() else _contents_key(root, files, form)
    array = folder / f"{key}.npy"
    shape = (len(files), channels, *size)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not _is_whole(array, shape):
            _replace(array, lambda file: _decode(files, shape, file))
        if not note.is_file():
            _replace(note, lambda file: file.write(key.encode()))
    except OSError as error:
        raise no_room(folder, error) from error
    # Read-only: Linux refuses a copy-on-write map that is larger than memory.
    return DecodedImages(x=np.load(array, mmap_mode="r", allow_pickle=False), key=key)


def decoded_image(path: Path, *, size: tuple[int, int], channels: int) -> NDArray[np.uint8]:
    """Return one image as (channels, height, width), turned upright as its EXIF data say.

    Raises:
        DataError: Pillow cannot decode it, or it has more than 8 bits a channel.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            mode = image.mode
            upright = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
    except Exception as error:  # Pillow's plugins raise errors of many kinds on damaged files
        raise DataError(
            f"{path} cannot be decoded: {error}", hint="replace or remove this image"
        ) from error
    if mode[0] in "IF":
        raise DataError(
            f"{path} has more than 8 bits a channel (mode {mode})",
            hint="convert it to 8 bits, or use `arrays` with float32",
        )
    resized = upright.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized).reshape(*size, channels).transpose(2, 0, 1)


def _state(file: Path) -> str:
    status = file.stat()
    return f"{file} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _contents_key(root: Path, files: Sequence[Path], form: str) -> str:
    digests = (hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    names = (file.relative_to(root).as_posix() for file in files)
    return _sha256([form, *(f"{n} {d}" for n, d in zip(names, digests, strict=True))])


def _sha256(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _is_whole(array: Path, shape: tuple[int, ...]) -> bool:
    try:
        return bool(np.load(array, mmap_mode="r", allow_pickle=False).shape == shape)
    except (OSError, ValueError):  # not there, or cut off
        return False


def _replace(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            write(file)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _decode(files: Sequence[Path], shape: tuple[int, ...], out: IO[bytes]) -> None:
    # Written as a stream: on a full disk a memory map would end the process with SIGBUS.
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, header)
    with ThreadPoolExecutor(allowed_cores()) as pool:
        for batch in _batches(files):
            for pixels in pool.map(
                lambda file: decoded_image(file, size=(shape[2], shape[3]), channels=shape[1]),
                batch,
            ):
                out.write(pixels.tobytes())


def _batches(files: Sequence[Path]) -> Iterator[Sequence[Path]]:
    for start in range(0, len(files), FILES_AT_ONCE):
        yield files[start : start + FILES_AT_ONCE]
