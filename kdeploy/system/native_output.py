"""What a library of C or C++ writes to the process's own streams, past Python's."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def native_errors() -> Iterator[Callable[[], str]]:
    """Keep what is written to stderr; yield a function that returns it so far."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 2)
            try:
                yield lambda: os.pread(file.fileno(), 2**20, 0).decode(errors="replace")
            finally:
                os.dup2(kept, 2)
    finally:
        os.close(kept)
