"""Read JSON that anyone may have written: bounded, and every fault of it one kind of error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdeploy.errors import DataError

MOST_BYTES = 256 * 1024 * 1024
DEEPEST = 64  # below Python's own limit of 1000 calls
MOST_DIGITS = 20  # 2**64 has 20; longer ones take quadratic time to read


def json_file(path: Path) -> Any:
    """Return what a JSON file says.

    Raises:
        DataError: it is too large, too deep or no JSON.
    """
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise DataError(
            f"{path} is longer than {MOST_BYTES // 1024**2} MiB", hint="kdeploy wrote no such"
        )
    try:
        return json_text(content)
    except ValueError as error:
        raise DataError(
            f"{path} is not JSON: {error}",
            hint="kdeploy writes such files; was it edited or cut off?",
        ) from None


def json_text(content: bytes | str) -> Any:
    """Return what a JSON document says.

    Raises:
        ValueError: it is no JSON, no UTF-8, a whole number has more than 20 digits, a text
            is of broken Unicode, or lists and mappings lie too deep in one another.
    """
    try:
        found = json.loads(content, parse_int=_whole)
    except RecursionError:
        raise ValueError(f"more than {DEEPEST} lists and mappings in one another") from None
    escape = b"\\ud" if isinstance(content, bytes) else "\\ud"
    if escape in content.lower():  # type: ignore[operator]
        _check_unicode(found)
    level, depth = [found], 0
    while level := [v for c in level for v in _inside(c) if isinstance(v, dict | list)]:
        depth += 1
        if depth >= DEEPEST:
            raise ValueError(f"more than {DEEPEST} lists and mappings in one another")
    return found


def _check_unicode(found: Any) -> None:
    """Refuse half of a pair of escapes: no file and no terminal takes the text that it makes."""
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        raise ValueError("a text of broken Unicode") from None


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits")
    return int(text)


def _inside(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
