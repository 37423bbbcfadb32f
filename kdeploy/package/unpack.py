"""Unpack a zip that nobody vouches for: names, kinds and sizes are checked before any byte."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from kdeploy.errors import ArtifactCorrupt
from kdeploy.package.checksums import MAX_FILES

# An ONNX file with its data inside cannot be larger than protobuf's 2 GiB.
MAX_BYTES = 2**31
MAX_NAME = 200
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_ENCRYPTED = 0x1


def unpack(path: Path, folder: Path) -> None:
    """Unpack a bundle into an empty folder.

    Raises:
        ArtifactCorrupt: it is no whole zip file, or an entry would leave the folder, is a link or
            a device, comes twice, is encrypted, or the whole is larger than a bundle can be.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check(entries)
            for entry in entries:
                if not entry.is_dir():
                    target = folder / entry.filename
                    target.parent.mkdir(parents=True, exist_ok=True)
                    # zipfile reads no more than the declared size, then compares the CRC.
                    with archive.open(entry) as source, target.open("xb") as file:
                        shutil.copyfileobj(source, file)
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, zlib.error) as error:
        raise _refused(f"it is not a whole zip file ({error})") from None


def _check(entries: Sequence[zipfile.ZipInfo]) -> None:
    if len(entries) > MAX_FILES:
        raise _refused(f"it has {len(entries)} entries, more than {MAX_FILES}")
    total = sum(e.file_size for e in entries)
    if total > MAX_BYTES:
        raise _refused(f"it would unpack to {total} bytes, more than {MAX_BYTES}")
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
