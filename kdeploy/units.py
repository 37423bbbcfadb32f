"""Read and write quantities: stored in seconds, bytes and joules, shown in what people read."""

from __future__ import annotations

import math
import re

from kdeploy.errors import InputError, RecipeError

# SI for KB, MB, GB; IEC for KiB, MiB, GiB. Factors to the stored unit.
UNITS: dict[str, tuple[str, float]] = {
    "s": ("s", 1.0),
    "ms": ("s", 1e-3),
    "us": ("s", 1e-6),
    "µs": ("s", 1e-6),
    "ns": ("s", 1e-9),
    "B": ("B", 1.0),
    "KB": ("B", 1e3),
    "MB": ("B", 1e6),
    "GB": ("B", 1e9),
    "KiB": ("B", 2.0**10),
    "MiB": ("B", 2.0**20),
    "GiB": ("B", 2.0**30),
    "J": ("J", 1.0),
    "mJ": ("J", 1e-3),
    "uJ": ("J", 1e-6),
    "µJ": ("J", 1e-6),
    "%": ("fraction", 0.01),
    "pp": ("fraction", 0.01),
    "K": ("count", 1e3),
    "M": ("count", 1e6),
    "G": ("count", 1e9),
    "": ("", 1.0),
}
LONGEST_QUANTITY = 100  # characters: a pattern that backtracks must end
LARGEST_EXTENT = 2**24  # pixels on a side, far above any image
_QUANTITY = re.compile(r"\s*([-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)\s*([A-Za-zµ%]*)\s*")


def parse_quantity(text: str, *, where: str = "") -> tuple[float, str]:
    """Return the value in its stored unit, and that unit ("" when none was written).

    Raises:
        InputError: `text` is not a number with a known unit.
    """
    match = _QUANTITY.fullmatch(text) if len(text) <= LONGEST_QUANTITY else None
    units = {u.lower(): u for u in UNITS} | {u: u for u in UNITS}
    unit = match and (match[2] if match[2] in UNITS else units.get(match[2].lower()))
    if match is None or unit is None or not math.isfinite(float(match[1]) * UNITS[unit][1]):
        raise InputError(
            f"{where}{': ' if where else ''}`{text}` is not a quantity",
            hint="write a number and a unit, e.g. `2ms`, `100KB`, `1.5MiB`, `0.9`",
        )
    stored, factor = UNITS[unit]
    return float(match[1]) * factor, stored


def parse_drop(text: str, *, where: str) -> float:
    """Return a drop of accuracy such as `0.5pp` as a fraction.

    Raises:
        RecipeError: it is none.
    """
    value, unit = parse_quantity(text, where=where)
    if unit != "fraction" or not 0 <= value < 1:
        raise RecipeError(f"{where}: `{text}` is no drop of accuracy", hint="e.g. `0.5pp`")
    return value


def parse_bound(text: str, unit: str, *, where: str) -> float:
    """Return a positive quantity such as `15ms` in the stored unit ("s", "B").

    Raises:
        RecipeError: it is none.
    """
    example = {"s": "15ms", "B": "512MB"}[unit]
    value, found = parse_quantity(text, where=where)
    if found != unit or value <= 0:
        raise RecipeError(f"{where}: `{text}` is not in {unit}, or not above 0", hint=example)
    return value


def parse_extents(text: str, *, where: str) -> tuple[int, ...]:
    """Return the numbers of `128` or `160x96`.

    Raises:
        RecipeError: they are none, or one is 0.
    """
    parts = text.split("x") if len(text) <= LONGEST_QUANTITY else [""]
    if not all(part.isdecimal() and 0 < int(part) <= LARGEST_EXTENT for part in parts):
        raise RecipeError(f"{where}: `{text}` is not a size", hint="e.g. `128` or `160x96`")
    return tuple(int(part) for part in parts)


def format_quantity(value: float | None, unit: str) -> str:
    """Return `value` (in its stored unit) as people read it, with three significant digits."""
    if value is None:
        return "-"
    if unit == "s":
        return format_seconds(value)
    if unit == "B":
        return _scaled(value, [(2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")])
    if unit == "fraction":
        return f"{value * 100:.2f} %"
    if unit == "count":
        return _scaled(value, [(1e9, "G"), (1e6, "M"), (1e3, "K"), (1.0, "")]).strip()
    if unit in ("J", "J/item"):
        return _scaled(value, [(1.0, unit), (1e-3, f"m{unit}"), (1e-6, f"µ{unit}")])
    return f"{value:.4g} {unit}".strip()


def format_seconds(value: float) -> str:
    """Return a duration: `23.1 µs`, `4.20 ms`, `3.1 s`, `4 min 12 s`, `2 h 05 min`."""
    if not math.isfinite(value):
        return f"{value} s"
    if value >= 3600:
        return f"{int(value // 3600)} h {int(value % 3600 // 60):02d} min"
    if value >= 120:
        return f"{int(value // 60)} min {int(value % 60):02d} s"
    return _scaled(value, [(1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")])


def _scaled(value: float, steps: list[tuple[float, str]]) -> str:
    factor, unit = next(((f, u) for f, u in steps if abs(value) >= f), steps[-1])
    scaled = value / factor
    digits = (
        0 if abs(scaled) >= 100 or float(scaled).is_integer() else 1 if abs(scaled) >= 10 else 2
    )
    return f"{scaled:.{digits}f} {unit}"
