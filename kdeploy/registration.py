"""What the decorators of all stages do: hang a technique's kind and facts on it.

Apart from the registry, which finds techniques by reading: a measured process has no use for that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def register(kind: str, **facts: Any) -> Callable[[Decorated], Decorated]:
    """Return the decorator that marks a technique and hangs its facts on it."""

    def mark(target: Decorated) -> Decorated:
        target.kind = kind  # type: ignore[attr-defined]
        target.facts = facts  # type: ignore[attr-defined]
        return target

    return mark
