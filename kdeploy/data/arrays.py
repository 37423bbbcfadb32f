"""Arrays of your own: images, signals or token ids, in .npz, .npy or .safetensors files."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.check import FLOAT_TYPES, TOKEN_TYPES, labels_from
from kdeploy.data.contract import Parts, Preprocessing, Split, dataset
from kdeploy.errors import DataError, FileMissing

KEYS = ("x", "y")
FORMS = "a .npz or .safetensors file with `x` and `y`, or a folder with x.npy and y.npy"
BYTE_SCALE = 1 / 255


@dataset()
def arrays(
    *,
    train: Path,
    test: Path,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    classes: list[str] | int | None = None,
    vocabulary: int | None = None,
) -> Parts:
    """Return the parts; `x` is (N,C,H,W) or (N,C,L), float32 or uint8, and `y` is (N,) integers.

    float32 goes to the model as it is, uint8 as x / 255, in both cases less `mean` and over `std`.
    Token ids are (N, tokens), int32 or int64; their `y` may be (N, tokens) too, a class for every
    token and -100 for one that does not count.

    Args:
        train: A .npz or .safetensors file, or a folder with x.npy and y.npy (memory-mapped).
        test: The same for the test part.
        mean: Subtracted, one number or one a channel; 0 when left out.
        std: Divided by, one number or one a channel; 1 when left out.
        classes: Names of the classes or their number; left out, up to the largest training label.
        vocabulary: Of token ids, how many there are; left out, up to the largest training id.
    """
    if train.resolve() == test.resolve():
        raise DataError(
            f"train and test are the same file: {train}", hint="keep test items out of training"
        )
    parts = [_split(path) for path in (train, test)]
    if parts[1].x.dtype != parts[0].x.dtype:
        raise DataError(
            f"x is {parts[0].x.dtype} in {train} but {parts[1].x.dtype} in {test}",
            hint="store both in one type",
        )
    x, y = parts[0].x, parts[0].y
    preprocessing = Preprocessing(
        shape=tuple(x.shape[1:]),
        scale=BYTE_SCALE if x.dtype == np.uint8 else 1.0,
        mean=tuple(mean or [0.0]),
        std=tuple(std or [1.0]),
        classes=_classes(classes, y),
    )
    if x.dtype in TOKEN_TYPES:
        _refuse_normalization(mean, std, str(train))
        preprocessing = replace(
            preprocessing, dtype="int64", vocabulary=vocabulary or int(x.max(initial=0)) + 1
        )
    return Parts(train=parts[0], test=parts[1], preprocessing=preprocessing, source=str(train))


def _refuse_normalization(mean: object, std: object, where: str) -> None:
    if mean is not None or std is not None:
        raise DataError(
            f"{where} holds token ids, which have no mean and no std",
            hint="leave `mean` and `std` out",
        )


def _split(path: Path) -> Split:
    found = _read(path)
    for key in KEYS:
        if key not in found:
            names = ", ".join(f"`{name}`" for name in sorted(found)) or "nothing"
            raise DataError(f"{path} has no `{key}`, found {names}", hint=f"give {FORMS}")
    x, y = found["x"], found["y"]
    is_tokens = x.ndim == 2 and x.dtype in TOKEN_TYPES
    if not is_tokens and (x.ndim not in (3, 4) or x.dtype not in FLOAT_TYPES):
        raise DataError(
            f"{path}: x is {x.dtype} of shape {tuple(x.shape)}; it must be uint8 or float32, "
            "(N, channels, height, width) or (N, channels, length); or int32 or int64, (N, tokens)",
            hint="`x = x.astype('float32')`; add a channel axis with `x = x[:, None]`",
        )
    tokens = x.shape[1] if is_tokens else None
    return Split(x=x, y=labels_from(y, where=str(path), tokens=tokens), origin=str(path))


def _read(path: Path) -> dict[str, NDArray[Any]]:
    if path.is_dir():
        files = {key: path / f"{key}.npy" for key in KEYS if (path / f"{key}.npy").is_file()}
        return {key: _loaded(file)["array"] for key, file in files.items()}
    if not path.is_file():
        raise FileMissing(f"there is no {path}", hint=f"give {FORMS}")
    if path.suffix not in (".npz", ".safetensors"):
        raise DataError(
            f"{path} is `{path.suffix or 'a file without ending'}`", hint=f"give {FORMS}"
        )
    return _loaded(path)


def _loaded(file: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays in a file by name (of a .npy: "array"); nothing pickled is accepted."""
    if file.suffix == ".safetensors":
        return _tensors(file)
    try:
        if file.suffix == ".npy":
            # Read-only: Linux refuses a copy-on-write map that is larger than memory.
            return {"array": np.lib.format.open_memmap(file, mode="r")}
        # Opened here, because numpy does not close a damaged archive.
        with file.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            members = [name for name in archive.namelist() if name.endswith(".npy")]
            return {name.removesuffix(".npy"): _member(archive, name) for name in members}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{file} cannot be read: {error}", hint=_SAVE) from error


def _member(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(name) as stream:
        array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def _tensors(file: Path) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(file))
    except (SafetensorError, KeyError, TypeError, OSError) as error:
        raise DataError(f"{file} cannot be read: {error}", hint=_SAVE) from error


def _classes(classes: list[str] | int | None, y: NDArray[np.int64]) -> tuple[str, ...]:
    if isinstance(classes, list):
        return tuple(classes)
    count = classes if classes is not None else int(y.max(initial=0)) + 1
    return tuple(str(number) for number in range(count))


_SAVE = "write it with `np.savez(file, x=x, y=y)` or safetensors; object arrays are refused"
