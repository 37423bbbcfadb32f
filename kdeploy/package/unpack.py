"""Unpack a zip that nobody vouches for: names, kinds and sizes are checked before any byte."""

from __future__ import annotations

import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from kdeploy.errors import ArtifactCorrupt
from kdeploy.package.runner.python.reading import MOST_BYTES as MAX_BYTES
from kdeploy.package.runner.python.reading import MOST_FILES as MAX_FILES
from kdeploy.package.runner.python.reading import Refused, check_sizes

MAX_NAME = 200
# Weights hardly shrink, text 10 times; DEFLATE makes up to 1032 bytes of one.
MAX_RATIO = 50
FREE_BYTES = 8 * 2**20  # small archives may unpack to this at any ratio
# The end of a zip file: signature, and where in it the size of the directory stands.
_END, _END_BYTES, _LONGEST_COMMENT = b"PK\x05\x06", 22, 2**16
_END_64 = b"PK\x06\x07"
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_ENCRYPTED = 0x1  # bit 0 of the flags, APPNOTE 4.4.4


def unpack(path: Path, folder: Path) -> None:
    """Unpack a bundle into an empty folder.

    Raises:
        ArtifactCorrupt: it is no whole zip file, or an entry would leave the folder, is a link or
            a device, comes twice, is encrypted, or the whole is larger than a bundle can be.
    """
    # First: `ZipFile` reads the whole directory into memory before anything can be asked.
    _check_directory(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check(entries)
            for entry in entries:
                if not entry.is_dir():
                    target = folder / entry.filename
                    target.parent.mkdir(parents=True, exist_ok=True)
                    # zipfile reads no more than the declared size, then compares the CRC.
                    # "xb": what is there already, by whatever name, is never written over.
                    with _entry(archive, entry) as source, target.open("xb") as file:
                        shutil.copyfileobj(source, file)
    except (
        zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError, zlib.error,
        struct.error, OverflowError,
    ) as error:  # fmt: skip
        raise _refused(f"it is not a whole zip file ({error})") from None


def _entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> IO[bytes]:
    try:
        return archive.open(entry)
    except OSError as error:  # it would lie before the beginning of the file
        raise _refused(f"`{entry.filename}` is not there ({error})") from None


def _check_directory(path: Path) -> None:
    """Refuse a directory that takes more memory than one of a bundle, before it is read."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _END_BYTES - _LONGEST_COMMENT))
        tail = file.read()
    end = tail.rfind(_END)
    if end < 0 or len(tail) < end + _END_BYTES:
        raise _refused("it is not a whole zip file (its end is not there)")
    num_bytes = int.from_bytes(tail[end + 12 : end + 16], "little")
    # A name, 46 bytes, and what else may stand there; ZIP64 is for more than a bundle can be.
    if num_bytes > MAX_FILES * (MAX_NAME + 300) or _END_64 in tail[max(0, end - 20) : end]:
        raise _refused(f"its directory has {num_bytes} bytes, more than that of {MAX_FILES} files")


def _check(entries: Sequence[zipfile.ZipInfo]) -> None:
    if len(entries) > MAX_FILES:
        raise _refused(f"it has {len(entries)} entries, more than {MAX_FILES}")
    total = sum(e.file_size for e in entries)
    if total > MAX_BYTES:
        raise _refused(f"it would unpack to {total} bytes, more than {MAX_BYTES}")
    packed = sum(e.compress_size for e in entries)
    if total > FREE_BYTES + MAX_RATIO * packed:
        raise _refused(f"{packed} bytes would unpack to {total}, more than {MAX_RATIO} times")
    try:
        check_sizes({e.filename: e.file_size for e in entries})
    except Refused as error:
        raise _refused(str(error)) from None
    seen: set[str] = set()
    for entry in entries:
        _check_name(entry)
        _check_kind(entry)
        # On some devices' file systems Model.onnx and model.onnx are one file.
        name = entry.filename.rstrip("/").casefold()
        if name in seen:
            raise _refused(f"`{entry.filename}` comes twice")
        seen.add(name)
    files = {e.filename.casefold() for e in entries if not e.is_dir()}
    for name in seen:
        if any(str(parent) in files for parent in PurePosixPath(name).parents):
            raise _refused(f"`{name}` lies inside a file")


def _check_name(entry: zipfile.ZipInfo) -> None:
    # `orig_filename` is what the file says; Python cuts `filename` at a NUL and turns separators.
    name = entry.orig_filename
    parts = name.removesuffix("/").split("/")
    has_odd_character = any(c in '\\:*?"<>|' or not c.isprintable() for c in name)
    is_long = len(name) > MAX_NAME
    if has_odd_character or is_long or any(part in ("", ".", "..") for part in parts):
        raise _refused(f"`{name}` is a name that no bundle has")


def _check_kind(entry: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    usual = (0, stat.S_IFDIR) if entry.is_dir() else (0, stat.S_IFREG)
    if kind not in usual:
        raise _refused(f"`{entry.filename}` is a link or a device, not a file")
    if entry.flag_bits & _ENCRYPTED or entry.compress_type not in _METHODS:
        raise _refused(f"`{entry.filename}` is encrypted or packed in an unusual way")


def _refused(what: str) -> ArtifactCorrupt:
    return ArtifactCorrupt(
        f"the bundle was not unpacked: {what}",
        hint="get it again from its maker; `kdeploy package` never writes such a file",
    )
