"""How a process ended, in words: by a signal's name, or with a code."""

from __future__ import annotations

import signal


def named_end(code: int) -> str:
    """Return how a process ended, from its code as `subprocess` has it: negative by a signal."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:  # a real-time signal
        return f"signal {-code}"
