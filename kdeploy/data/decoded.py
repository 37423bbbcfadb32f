"""Decode image files once into one memory-mapped array of bytes in the cache.

Three files in the cache: a note named by what the file system says (paths, sizes, times) holds the
key of what the images contain; the array and what was met while decoding are named by that key. So
an unchanged folder is not even read, and a copied or touched one is read but not decoded again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.cache import cache_folder, no_room
from kdeploy.data.letterbox import LETTERBOX_FILL, Placement
from kdeploy.errors import DataError
from kdeploy.machine import allowed_cores

if TYPE_CHECKING:
    from PIL import Image as Pillow

VERSION = "4"
"""Of what decoding does; a change makes old cache entries unused."""
FILES_AT_ONCE = 1024  # decoded before the next are read: memory stays bounded
BACKGROUND = (255, 255, 255)
"""What transparent pixels are laid on, where nothing else is said: the white of a page."""
WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
NAMED = 3
"""So many damaged images are named, of the others the number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedImages:
    """Images (N, channels, height, width), uint8, memory-mapped, and the key of their contents."""

    x: NDArray[np.uint8]
    key: str
    sizes: tuple[tuple[int, int], ...] = ()
    """Height and width of each upright image before it was brought to the form's."""
    transparent: int = 0
    """How many have pixels that are not opaque."""
    several: int = 0
    """How many files hold more pictures than the first, which is taken: animations and pages."""
    deep: int = 0
    """How many had 16 bits a channel, of which the upper 8 are kept."""

    def sentences(self, root: Path, form: Form) -> list[str]:
        """Return what people should know of how the images of a folder were decoded."""
        total, told = len(self.x), []
        if self.transparent:
            ground = ", ".join(map(str, form.background))
            told += [
                f"{self.transparent} of {total} images of {root} are transparent in part, and laid "
                f"on the background ({ground}): `background: [R, G, B]` sets another"
            ]
        if self.several:
            told += [
                f"{self.several} of {total} files of {root} hold several pictures (animations, "
                "pages): the first of each is taken"
            ]
        if self.deep:
            told += [
                f"{self.deep} of {total} files of {root} have 16 bits a channel: the upper 8 are "
                "kept"
            ]
        return told


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One decoded image (channels, height, width), and what was met on the way."""

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    """Height and width of the upright image as it is in the file."""
    is_transparent: bool = False
    has_several: bool = False
    is_deep: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What all images are brought to."""

    size: tuple[int, int]
    """Height and width."""
    channels: int
    """1 for grey, 3 for colour."""
    background: tuple[int, ...] = BACKGROUND
    """Red, green and blue that transparent pixels are laid on."""
    letterbox: bool = False
    """Whether an image keeps its shape, between grey bars, or is stretched."""
    kind: str = "picture"
    """Or "mask": class indices, of which nothing is mixed."""

    def key(self) -> str:
        """Return what decides the pixels, as a text."""
        how = " letterbox" * self.letterbox
        return f"{self.kind} {self.channels} {self.size} {self.background}{how}"


class Decode(Protocol):
    """Makes one picture of a file."""

    def __call__(self, path: Path, form: Form) -> Picture:
        """Return it, or raise DataError with the path."""
        ...


def decoded_images(
    root: Path, files: Sequence[Path], form: Form, *, decode: Decode | None = None
) -> DecodedImages:
    """Return all images in order, decoded now or before.

    Args:
        root: The folder that the names in the key are relative to.
        files: The images.
        form: What they are brought to.
        decode: Makes one of them; left out, `decoded_image`.

    Raises:
        DataError: images cannot be decoded; they are named.
        Unavailable: the cache cannot be written.
    """
    folder = cache_folder("images")
    decode = decode or decoded_image
    text = f"{VERSION} {form.key()}"
    # By size and times first: reading 100 GB to learn that nothing changed would take minutes.
    note = folder / f"{_sha256([text, str(root.resolve()), *map(_state, files)])}.key"
    key = note.read_text() if note.is_file() else _contents_key(root, files, text)
    array, met = folder / f"{key}.npy", folder / f"{key}.json"
    shape = (len(files), form.channels, *form.size)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (_is_whole(array, shape) and met.is_file()):
            seen: dict[str, Any] = {}
            _replace(array, lambda file: seen.update(_decode(files, form, file, decode)))
            _replace(met, lambda file: file.write(json.dumps(seen).encode()))
        if not note.is_file():
            _replace(note, lambda file: file.write(key.encode()))
    except OSError as error:
        raise no_room(folder, error) from error
    # Read-only: Linux refuses a copy-on-write map that is larger than memory.
    x = np.load(array, mmap_mode="r", allow_pickle=False)
    seen = json.loads(met.read_text())
    sizes = tuple((height, width) for height, width in seen.pop("sizes"))
    return DecodedImages(x=x, key=key, sizes=sizes, **seen)


def decoded_image(path: Path, form: Form) -> Picture:
    """Return one image, upright as its EXIF data say, and opaque.

    Raises:
        DataError: Pillow cannot decode it, or it has more than 8 bits a channel.
    """
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty, 0 bytes", hint="replace or remove this image")
    return picture_from(path, form, where=str(path))


def picture_from(source: Path | IO[bytes], form: Form, *, where: str) -> Picture:
    """Return one image of a file or a stream; messages call it `where`.

    Raises:
        DataError: Pillow cannot decode it, or it has more than 8 bits a channel.
    """
    from PIL import Image

    try:
        with Image.open(source) as image:
            mode, has_several = image.mode, getattr(image, "is_animated", False)
            is_deep = any("16" in str(tile[3]) for tile in image.tile)  # as the decoder is told
            converted, is_transparent = upright(image, form)
    except Exception as error:  # Pillow's plugins raise errors of many kinds on damaged files
        raise DataError(
            f"{where} cannot be decoded: {error}", hint="replace or remove this image"
        ) from error
    # Pillow's modes of 32-bit integers, 16-bit grey and floats.
    if mode[0] in "IF":
        raise DataError(
            f"{where} has more than 8 bits a channel (mode {mode})",
            hint="convert it to 8 bits, or use `arrays` with float32",
        )
    return Picture(
        pixels=fitted(converted, form),
        size=(converted.height, converted.width),
        is_transparent=is_transparent,
        has_several=has_several,
        is_deep=is_deep,
    )


def upright(image: Pillow.Image, form: Form) -> tuple[Pillow.Image, bool]:
    """Return the image as people see it, in the form's colours; and whether it had holes."""
    from PIL import ImageOps

    opaque, is_transparent = _opaque(ImageOps.exif_transpose(image), form.background)
    return opaque.convert("L" if form.channels == 1 else "RGB"), is_transparent


def fitted(image: Pillow.Image, form: Form) -> NDArray[np.uint8]:
    """Return the image in the form's size, (channels, height, width)."""
    from PIL import Image

    place = Placement.of((image.height, image.width), form.size, letterbox=form.letterbox)
    height, width = place.size
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(resized).reshape(height, width, form.channels).transpose(2, 0, 1)
    if place.size == form.size:
        return pixels
    whole = np.full((form.channels, *form.size), LETTERBOX_FILL, np.uint8)
    whole[:, place.top : place.top + height, place.left : place.left + width] = pixels
    return whole


def _opaque(image: Pillow.Image, background: tuple[int, ...]) -> tuple[Pillow.Image, bool]:
    """Return the image laid on the background, and whether anything of that shows through.

    The runner of a bundle does the same, line by line.
    """
    from PIL import Image

    if image.mode not in WITH_ALPHA and "transparency" not in image.info:
        return image, False
    layer = image.convert("RGBA")
    if layer.getchannel("A").getextrema() == (255, 255):  # an alpha channel without any hole
        return layer, False
    return Image.alpha_composite(Image.new("RGBA", layer.size, (*background, 255)), layer), True


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
    # With the process's number: two runs may decode the same folder at once.
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            write(file)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _decode(files: Sequence[Path], form: Form, out: IO[bytes], decode: Decode) -> dict[str, Any]:
    """Write the array, and return what was met; all files are looked at before any is refused."""
    # Written as a stream: on a full disk a memory map would end the process with SIGBUS.
    shape = (len(files), form.channels, *form.size)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, header)
    counts = {"transparent": 0, "several": 0, "deep": 0}
    sizes: list[tuple[int, int]] = []
    refused: list[DataError] = []
    with ThreadPoolExecutor(allowed_cores()) as pool:
        for batch in _batches(files):
            for picture in pool.map(lambda file: _picture_or_error(file, form, decode), batch):
                if isinstance(picture, DataError):
                    refused.append(picture)
                # Behind a refused image rows would be shifted; the file is thrown away.
                elif not refused:
                    out.write(picture.pixels.tobytes())
                    sizes.append(picture.size)
                    counts["transparent"] += picture.is_transparent
                    counts["several"] += picture.has_several
                    counts["deep"] += picture.is_deep
    if refused:
        raise _all_refused(refused, len(files))
    return {**counts, "sizes": sizes}


def _picture_or_error(file: Path, form: Form, decode: Decode) -> Picture | DataError:
    try:
        return decode(file, form)
    except DataError as error:
        return error


def _all_refused(refused: Sequence[DataError], total: int) -> DataError:
    if len(refused) == 1:
        return refused[0]
    named = "\n".join(error.message for error in refused[:NAMED])
    more = f"\nand {len(refused) - NAMED} more" if len(refused) > NAMED else ""
    return DataError(
        f"{len(refused)} of {total} images cannot be taken:\n{named}{more}", hint=refused[0].hint
    )


def _batches(files: Sequence[Path]) -> Iterator[Sequence[Path]]:
    for start in range(0, len(files), FILES_AT_ONCE):
        yield files[start : start + FILES_AT_ONCE]
