"""A path that somebody wrote: refused in a sentence where no file can have such a name."""

from __future__ import annotations

import os
from pathlib import Path

from kdeploy.errors import InputError

LONGEST_PART = 255  # bytes: NAME_MAX of Linux
LONGEST_PATH = 4095
"""Bytes; Linux's NAME_MAX and PATH_MAX."""


def named_path(text: str | Path, folder: Path = Path(), *, where: str = "") -> Path:
    """Return the path that `text` names, starting at `folder`; `~` is the home folder.

    Raises:
        InputError: no file can have that name, or there is no such user.
    """
    path = Path(text)
    try:
        path = folder / path.expanduser()
        encoded = os.fsencode(path)
    except (RuntimeError, UnicodeEncodeError):
        raise _refused(text, "it names nobody's folder, or no character", where) from None
    if b"\0" in encoded:
        raise _refused(text, "it has a zero byte", where)
    longest = max(map(len, encoded.split(b"/")))
    if longest > LONGEST_PART or len(encoded) > LONGEST_PATH:
        raise _refused(text, f"it has {len(encoded)} bytes, {longest} in one part", where)
    return path


def _refused(text: str | Path, why: str, where: str) -> InputError:
    place = f"{where}: " if where else ""
    return InputError(
        f"{place}no file can have the name `{text}`: {why}",
        hint="was another value meant to stand here?",
    )
