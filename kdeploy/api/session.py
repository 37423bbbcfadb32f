"""What calls from one Python process share: a folder that goes with it, and who is told."""

from __future__ import annotations

import atexit
from contextlib import ExitStack
from functools import cache
from pathlib import Path

from kdeploy.pipeline.log import RunListener
from kdeploy.progress.terminal import Terminal
from kdeploy.system.temporary import temporary_folder


@cache
def folder() -> Path:
    """Return the folder of this process: what is made without `out` lies there until it ends."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(temporary_folder("session"))


def place(out: str | Path | None) -> Path:
    """Return where a call writes to."""
    return folder() if out is None else Path(out)


def listener() -> RunListener:
    """Return who is told what goes on: progress and results on stderr, or in the notebook."""
    return Terminal()
