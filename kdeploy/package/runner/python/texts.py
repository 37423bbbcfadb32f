"""What people read of a prediction, or of why there is none.

Standard library only, Python 3.9.
"""

from __future__ import annotations

import sys
from typing import Any, NoReturn

Json = dict[str, Any]


class Stopped(SystemExit):
    """The end of a program that has said why; whoever goes on without it may say so too."""

    def __init__(self, message: str, hint: str, code: int) -> None:
        super().__init__(code)
        self.message, self.hint = message, hint


def stop(message: str, hint: str, code: int = 2) -> NoReturn:
    """End the program: 2 is wrong input, 3 something missing here."""
    print(f"{message}\n\nhint: {hint}", file=sys.stderr)
    raise Stopped(message, hint, code)


def line(one: Json) -> str:
    """Return the line of one prediction: where it is from, and what it is."""
    place = f"{one['input']}[{one['item']}]: "
    if "class" in one:
        return f"{place}{one['class']} {one['score']:.4f}"
    if "decoded" in one:
        return place + ", ".join(f"{k} {_shown(v)}" for k, v in one["decoded"].items())
    return place + ", ".join(f"{name} {_shortened(x)}" for name, x in one["outputs"].items())


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_shown(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "; ".join(_shown(one) for one in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and value and isinstance(value[0], str):
        return " ".join(value)
    return value if isinstance(value, str) else _shortened(value)


def _shortened(values: Any) -> str:
    numbers = list(_flat(values))
    if len(numbers) <= 8:
        return ", ".join(f"{number:.5g}" for number in numbers)
    return f"{len(numbers)} numbers from {min(numbers):.5g} to {max(numbers):.5g}"


def _flat(values: Any) -> Any:
    if not isinstance(values, list):
        yield values
        return
    for inner in values:
        yield from _flat(inner)
