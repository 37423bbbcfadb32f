"""Put a bundle in its place whole or not at all: made beside it, flushed, renamed.

A kill at any moment leaves the old bundle or the new one, and at most a hidden `.NAME.partial-*`
folder that the next packaging removes. Zip files are byte for byte the same for the same contents.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdeploy.errors import InputError
from kdeploy.package.manifest import MANIFEST, is_bundle, is_manifest_of_bundle
from kdeploy.package.runner.python.reading import MOST_TEXT_BYTES
from kdeploy.store.artifact import disk_error, sync
from kdeploy.system.temporary import locked_folder, sweep

# The earliest time that a zip file can say.
ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


@contextmanager
def published(out: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; on success it, or its zip, replaces `out`.

    Raises:
        InputError: `out` exists and is not a bundle.
        Unavailable: the disk is full or cannot be written.
    """
    _refuse_foreign(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{out.name}.partial-"
        sweep(prefix, out.parent)
        with locked_folder(prefix, out.parent) as staging:
            bundle = staging / "bundle"
            bundle.mkdir()
            yield bundle
            ready = write_zip(bundle, staging / "bundle.zip") if out.suffix == ".zip" else bundle
            _flush(ready)
            _put(ready, out, staging)
            # The new name is in the folder's own data: without it a power cut may bring the old one
            # back.
            sync(out.parent)
    except OSError as error:
        raise disk_error(error, out.parent) from error


def write_zip(folder: Path, path: Path) -> Path:
    """Write all files of a folder, sorted, without times or owners; return the path."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            # One time and one mode for all: equal bundles are equal files.
            entry = zipfile.ZipInfo(file.relative_to(folder).as_posix(), ZIP_TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # Unix, whose file modes `external_attr` holds
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            with file.open("rb") as source, archive.open(entry, "w") as target:
                shutil.copyfileobj(source, target)
    return path


def _refuse_foreign(out: Path) -> None:
    if not os.path.lexists(out) or (out.is_dir() and not out.is_symlink() and _is_replaceable(out)):
        return
    if out.is_file() and not out.is_symlink() and out.suffix == ".zip" and _is_zipped_bundle(out):
        return
    raise InputError(
        f"{out} exists and is not a bundle; it was left as it is",
        hint="choose another --out, or remove it yourself",
    )


def _is_replaceable(folder: Path) -> bool:
    if folder.suffix == ".zip":
        return False
    is_empty = not any(folder.iterdir())
    return is_empty or is_bundle(folder)


def _is_zipped_bundle(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            is_small = archive.getinfo(MANIFEST).file_size <= MOST_TEXT_BYTES
            return is_small and is_manifest_of_bundle(archive.read(MANIFEST))
    except (zipfile.BadZipFile, KeyError, OSError, RuntimeError, NotImplementedError):
        return False


def _put(ready: Path, out: Path, staging: Path) -> None:
    if not (ready.is_dir() and out.is_dir()):
        ready.replace(out)
        return
    if not _exchange(ready, out):
        # Without the system call there is a moment with no bundle, but never half of one.
        previous = out.rename(staging / "previous")
        try:
            ready.rename(out)
        except OSError:
            previous.rename(out)
            raise


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step (Linux 3.15, glibc 2.28); return whether that worked."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    names = (os.fsencode(one), os.fsencode(other))
    return bool(function(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


def _flush(path: Path) -> None:
    for inner in [*path.rglob("*"), path] if path.is_dir() else [path]:
        sync(inner)
