"""Read .ts files: labelled series of one length, as the time series archives store them.

A header of `@key value` lines, then one series a line: values with commas, channels with colons,
the class last. https://www.aeon-toolkit.org/en/latest/api_reference/file_specifications/ts.html
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdeploy.errors import DataError

COMMENTS = ("#", "%")
_AGAIN = "the file is damaged: copy or download it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSeries:
    """The contents of one file."""

    x: NDArray[np.float32]
    """(N, channels, length); NaN where a value is missing."""
    labels: tuple[str, ...]
    classes: tuple[str, ...]
    """As the header lists them."""


def read_ts(lines: Iterable[str], *, where: str) -> LabelledSeries:
    """Return the series of the lines of a .ts file.

    Args:
        lines: With or without their ends.
        where: The file, for messages.

    Raises:
        DataError: not a .ts file of classes, a value that is no number, or several lengths.
    """
    classes: tuple[str, ...] | None = None
    series: list[list[str]] = []
    is_header = True
    for line in (line.strip() for line in lines):
        if not line or line.startswith(COMMENTS):
            continue
        if not is_header:
            # Channels are parted by colons, values by commas; the label comes last.
            series.append(line.split(":"))
        elif line.lower().startswith("@classlabel true"):
            classes = tuple(line.split()[2:])
        is_header = is_header and line.lower() != "@data"
    if classes is None or not series:
        lacks = "`@classLabel true ...` in its header" if series else "series after `@data`"
        raise DataError(f"{where} has no {lacks}", hint="give a .ts file of a classification set")
    labels = tuple(channels[-1].strip() for channels in series)
    if stray := set(labels) - set(classes):
        raise DataError(f"{where}: its header does not list the class {min(stray)}", hint=_AGAIN)
    return LabelledSeries(x=_stacked(series, where), labels=labels, classes=classes)


def _stacked(series: list[list[str]], where: str) -> NDArray[np.float32]:
    rows = [[channel.split(",") for channel in channels[:-1]] for channels in series]
    channels = sorted({len(row) for row in rows})
    if len(channels) > 1:
        raise DataError(
            f"{where} has series of {channels[0]} to {channels[-1]} channels", hint=_AGAIN
        )
    lengths = sorted({len(channel) for row in rows for channel in row})
    if len(lengths) > 1:
        raise DataError(
            f"{where}: its series have {lengths[0]} to {lengths[-1]} values",
            hint="a network's batch has one length: use a set whose series are equally long "
            "(some have a second edition with the ending `_eq`)",
        )
    try:
        return np.array([[[_number(v) for v in c] for c in row] for row in rows], dtype=np.float32)
    except ValueError as error:
        raise DataError(f"{where}: {error}", hint=_AGAIN) from error


def _number(value: str) -> float:
    return float("nan") if value.strip() == "?" else float(value)
