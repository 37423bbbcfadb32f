"""SHA256SUMS: a checksum of every other file of a bundle, as `sha256sum -c` reads it.

It proves that nothing changed since packaging, not who packaged: whoever can change a file can
change its line too. `digest` is the one number to compare over a channel that you trust.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path

from kdeploy.artifact import file_sha256
from kdeploy.errors import ArtifactCorrupt

SUMS = "SHA256SUMS"
MAX_FILES = 1000
_LINE = re.compile(r"([0-9a-f]{64})  ([^\\\n]+)")


def write_sums(folder: Path) -> None:
    """Write the checksums of all files, sorted by name."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    lines = [f"{file_sha256(folder / name)}  {name}\n" for name in names if name != SUMS]
    (folder / SUMS).write_text("".join(lines))


def check_sums(folder: Path) -> dict[str, str]:
    """Return the checksum of each file after comparing all of them.

    Raises:
        ArtifactCorrupt: a file is changed, missing, not listed, or no plain file.
    """
    found = _plain_files(folder)
    if SUMS not in found:
        raise _damaged(f"{SUMS} is missing")
    listed = _listed((folder / SUMS).read_text(errors="replace"))
    for name in sorted(found ^ {*listed, SUMS}):
        raise _damaged(f"{name} is missing" if name in listed else f"{name} is not in {SUMS}")
    for name, digest in listed.items():
        if file_sha256(folder / name) != digest:
            raise _damaged(f"the checksum of {name} does not hold")
    return listed


def digest(folder: Path) -> str:
    """Return the checksum of SHA256SUMS, which stands for the whole bundle."""
    return file_sha256(folder / SUMS)


def _plain_files(folder: Path) -> set[str]:
    found = set()
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            continue
        if not stat.S_ISREG(mode):
            raise _damaged(f"{name} is a link or a device, not a file")
        found.add(name)
        if len(found) > MAX_FILES:
            raise _damaged(f"it has more than {MAX_FILES} files")
    return found


def _listed(text: str) -> dict[str, str]:
    listed: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        match = _LINE.fullmatch(line)
        if match is None or match[2] in listed:
            raise _damaged(f"line {number} of {SUMS} is not a checksum and a new name")
        listed[match[2]] = match[1]
    return listed


def _damaged(what: str) -> ArtifactCorrupt:
    return ArtifactCorrupt(
        f"the bundle is damaged: {what}",
        hint="copy or unpack it again, or make it again with `kdeploy package`",
    )
