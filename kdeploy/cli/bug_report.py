"""What the report of an internal error needs, in a file: command, versions, machine, traceback.

No variable of the environment is written, and what looks like a password on the command line is
left out. Read the file before sending it on: the traceback may repeat names of files.
"""

from __future__ import annotations

import json
import re
import shlex
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from kdeploy import __version__

SECRET = re.compile(r"(?i)((?:token|password|passwd|secret|api[_-]?key)['\"]?\s*[=:]\s*)[^\s,}]+")
LOGIN = re.compile(r"://[^/\s@]+@")
AFTER_SECRET = re.compile(r"(?i)^--?[\w-]*(?:token|password|passwd|secret|key)$")
# Of the commands whose `--out` is a run's folder; a bundle must not get a further file.
RUN_FOLDERS = {
    "run": "runs/latest",
    **{verb: f"runs/{verb}" for verb in ("distill", "compress", "export", "bench")},
}


def write_bug_report(error: BaseException, given: Sequence[str]) -> Path | None:
    """Return the file that tells all of the error, None where nothing can be written.

    It lies in the folder of the run where there is one, else in the user's cache folder, else in
    the temporary one.
    """
    name = f"kdeploy-error-{datetime.now(UTC):%Y%m%dT%H%M%S}.txt"
    text = _text(error, given)
    for folder in _folders(given):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        except OSError:
            continue
        return folder / name
    return None


def _text(error: BaseException, given: Sequence[str]) -> str:
    recipe = next((word for word in given if word.endswith((".yaml", ".yml"))), None)
    parts = {
        "error": f"{type(error).__name__}: {error}",
        "command": _without_secrets(given),
        "folder": str(Path.cwd()),
        "recipe": str(Path(recipe).resolve()) if recipe else "none on the command line",
        "kdeploy": __version__,
        "machine": _told(_machine),
        "traceback": "".join(traceback.format_exception(error)),
    }
    return "\n".join(f"{key}: {value}" for key, value in parts.items())


def _without_secrets(given: Sequence[str]) -> str:
    words = ["kdeploy"]
    for before, word in zip(["", *given], given, strict=False):
        words.append("***" if AFTER_SECRET.match(before) else SECRET.sub(r"\1***", word))
    return LOGIN.sub("://***@", shlex.join(words))


def _machine() -> str:
    from kdeploy.runtimes.run import this_machine

    return json.dumps(this_machine().to_dict(), indent=2)


def _told(facts: Callable[[], str]) -> str:
    """Return the facts, or why there are none: a report must not fail by what it reports."""
    try:
        return facts()
    except Exception as error:
        return f"not known ({type(error).__name__}: {error})"


def _folders(given: Sequence[str]) -> Iterator[Path]:
    """Yield where the file may lie, best first."""
    verb = next((word for word in given if not word.startswith("-")), "")
    if verb in RUN_FOLDERS:
        named = [after for word, after in pairwise(given) if word == "--out"]
        named += [word.removeprefix("--out=") for word in given if word.startswith("--out=")]
        folder = Path((named or [RUN_FOLDERS[verb]])[-1])
        yield from [folder] * folder.is_dir()
    yield from _cache()
    yield Path(tempfile.gettempdir())


def _cache() -> Iterator[Path]:
    try:
        from kdeploy.system.user_cache import cache_folder

        yield cache_folder("errors")
    except Exception:  # whatever is broken here, there is still the temporary folder
        return


def as_document(kind: str, message: str, hint: str | None, code: int) -> dict[str, Any]:
    """Return an error as `--json` prints it."""
    return {"error": {"kind": kind, "message": message, "hint": hint, "exit_code": code}}
