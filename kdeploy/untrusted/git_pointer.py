"""Files that git-lfs or git-annex has not fetched yet: a line of text where the file should be."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from kdeploy.errors import InputError

LARGEST_BYTES = 1024  # a pointer has about 130
SIGNS = {
    b"version https://git-lfs.github.com/": "git lfs pull --include {name}",
    b"/annex/objects/": "git annex get {name}",
}
"""What a pointer begins with, and the command that fetches the file."""


def refuse_pointer(file: Path, kind: type[InputError]) -> None:
    """Refuse what only stands for a file that was not fetched.

    Raises:
        InputError: of the kind; its hint has the command that fetches the file.
    """
    if not file.is_file() or file.stat().st_size > LARGEST_BYTES:
        return
    head = file.read_bytes()
    for sign, command in SIGNS.items():
        if head.startswith(sign):
            raise kind(
                f"{file} is not the file itself: its {len(head)} bytes only say where it is",
                hint=f"fetch it where it was cloned: `{command.format(name=quote(file.name))}`",
            )
