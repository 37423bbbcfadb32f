"""What a report format is: a function from a comparison to text.

`@report_format(suffix=".md")` marks `(comparison, *, ...) -> str` in a file named as the format.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from kdeploy.registration import register

Drawn = TypeVar("Drawn", bound=Callable[..., str])


def report_format(*, suffix: str) -> Callable[[Drawn], Drawn]:
    """Return the decorator of a format; its files end in `suffix`."""

    def mark(draw: Drawn) -> Drawn:
        return register("report_format", suffix=suffix)(draw)

    return mark
