"""Which line of a model's code states a width that a layer no longer has."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import nn

MOST_LISTED = 4
_CODE = re.compile(r"`([^`]+)`")
_NUMBER = re.compile(r"(?<![\w.])(\d+)(?![\w.])")
_ATTRIBUTE = re.compile(r"self\.(\w+)")


def hint_for(message: str, model: nn.Module, widths: Mapping[str, tuple[int, int]]) -> str:
    """Return what to change where a narrower model cannot run.

    Args:
        message: Names the line that failed, in backticks at its end.
        model: The model.
        widths: Of each layer that lost channels: how many it had, and has.
    """
    lines = _CODE.findall(message)
    line = lines[-1] if lines else ""
    for name, (before, after) in widths.items():
        stated = _stated(line, before, model)
        if stated and before != after:
            return (
                f"`{stated}` in that line is the width {before} that `{name}` had, and it has "
                f"{after} now: take it from the tensor, e.g. `x.shape[1]` or -1, or keep the layer "
                f"whole: `ignore: [{name}]`"
            )
    shown = ", ".join(f"{n} ({a} of {b})" for n, (b, a) in list(widths.items())[:MOST_LISTED])
    more = f" and {len(widths) - MOST_LISTED} more" if len(widths) > MOST_LISTED else ""
    return (
        f"no width that went stands in that line; keep whole what leads to it, by `ignore`: {shown}"
        f"{more} lost channels"
    )


def _stated(line: str, width: int, model: nn.Module) -> str:
    """Return what in a line of code is the width: a number, or an attribute of a module."""
    if width in map(int, _NUMBER.findall(line)):
        return str(width)
    for attribute in _ATTRIBUTE.findall(line):
        values = (vars(module).get(attribute) for module in model.modules())
        if any(isinstance(value, int) and value == width for value in values):
            return f"self.{attribute}"
    return ""
