"""Read the arrays of a .npz, .npy or .safetensors file, or of a folder of .npy files."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.errors import DataError, FileMissing
from kdeploy.untrusted.git_pointer import refuse_pointer

FORMS = "a .npz or .safetensors file with `x` and `y`, or a folder with x.npy and y.npy"

ITEM_FORMS = "a folder of images, a .npy, or a .npz or .safetensors file with the items as `x`"
SEVERAL = (".npz", ".safetensors")


def members_of(path: Path) -> Mapping[str, Callable[[], NDArray[Any]]]:
    """Return by name how to read each array; those that nobody asks for are not read."""
    if path.is_dir():
        return {file.stem: partial(_npy, file) for file in sorted(path.glob("*.npy"))}
    if not path.is_file():
        raise FileMissing(f"there is no {path}", hint=f"give {FORMS}")
    if path.suffix == ".safetensors":
        return _tensors(path)
    if path.suffix == ".npz":
        return _archive(path)
    raise DataError(f"{path} is `{path.suffix or 'a file without ending'}`", hint=f"give {FORMS}")


def named_items_of(path: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Return the arrays of several inputs that a file holds, those of the names that are there."""
    members = members_of(path)
    return {name: members[name]() for name in names if name in members}


def items_of(path: Path) -> NDArray[Any]:
    """Return the one array of a .npy, else the `x` of whatever holds several.

    Raises:
        FileMissing: there is no such file.
        DataError: it has no `x`, or cannot be read.
    """
    if not path.exists():
        raise FileMissing(f"there is no {path}", hint=f"give {ITEM_FORMS}")
    if path.is_file() and path.suffix == ".npy":
        return _as_items(_npy(path), path)
    if path.is_file() and path.suffix not in SEVERAL:
        raise DataError(f"{path} holds no arrays by its ending", hint=f"give {ITEM_FORMS}")
    members = members_of(path)
    if "x" not in members:
        names = ", ".join(f"`{name}`" for name in sorted(members)) or "nothing"
        raise DataError(f"{path} has no `x`, found {names}", hint=f"give {ITEM_FORMS}")
    return _as_items(members["x"](), path)


def _as_items(x: NDArray[Any], path: Path) -> NDArray[Any]:
    if x.ndim < 2 or x.dtype.kind not in "biuf":
        raise DataError(
            f"{path}: x is {x.dtype} of shape {tuple(x.shape)}, no items",
            hint="items are numbers, (N, channels, height, width), (N, channels, length) or "
            "(N, tokens)",
        )
    return x


def _npy(file: Path) -> NDArray[Any]:
    with _told(file):
        # Read-only: Linux refuses a copy-on-write map that is larger than memory.
        array: NDArray[Any] = np.lib.format.open_memmap(file, mode="r")
    return array


def _archive(file: Path) -> Mapping[str, Callable[[], NDArray[Any]]]:
    with _told(file), zipfile.ZipFile(file) as archive:
        names = archive.namelist()
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{file} holds `{twice[0]}` twice", hint=_SAVE)
    return {name.removesuffix(".npy"): partial(_member, file, name) for name in names}


def _member(file: Path, name: str) -> NDArray[Any]:
    # Opened here, because numpy does not close a damaged archive.
    with _told(file), zipfile.ZipFile(file) as archive, archive.open(name) as stream:
        array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def _tensors(file: Path) -> Mapping[str, Callable[[], NDArray[Any]]]:
    from safetensors import safe_open

    with _told(file), safe_open(file, framework="numpy") as opened:
        return {name: partial(_tensor, file, name) for name in opened.keys()}  # noqa: SIM118


def _tensor(file: Path, name: str) -> NDArray[Any]:
    from safetensors import safe_open

    with _told(file), safe_open(file, framework="numpy") as opened:
        array: NDArray[Any] = opened.get_tensor(name)
    return array


@contextmanager
def _told(file: Path) -> Iterator[None]:
    """Turn what reading a damaged file raises into one error."""
    from safetensors import SafetensorError

    # A few bytes of header can declare more numbers than memory holds.
    damages = (ValueError, EOFError, OSError, KeyError, TypeError, MemoryError, zlib.error)
    try:
        yield
    except (*damages, zipfile.BadZipFile, SafetensorError) as error:
        refuse_pointer(file, DataError)
        raise DataError(f"{file} cannot be read: {error}", hint=_SAVE) from error


_SAVE = (
    "write it with `np.savez(file, x=x, y=y)` or safetensors; object arrays are"
    " refused: `x.astype('float32')`, names `y.astype(str)`"
)
