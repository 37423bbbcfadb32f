"""Which part of a dynamic model answers: checked on the golden items, counted on all others.

Standard library only, Python 3.9.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

Json = Any
SURE = 2.576  # standard deviations: 99 % of draws lie within
FEWEST_ITEMS = 100  # fewer say nothing of a share


def taken(run: Callable[[Any], Any], calls: list[Any]) -> list[int]:
    """Return the part that answers each call."""
    found = []
    for call in calls:
        run(call)
        found.append(int(getattr(run, "part", 0)))
    return found


def check(manifest: Json, parts: list[int]) -> tuple[str, bool, str]:
    """Return the check that each golden item is answered by the part that answered it here."""
    recorded = manifest["dynamic"]["golden"]
    differing = [i for i, (a, b) in enumerate(zip(parts, recorded)) if a != b]  # noqa: B905
    if differing:
        item = differing[0]
        reason = f"item {item} is answered by part {parts[item]}, recorded is {recorded[item]}"
        return ("golden.parts", False, reason)
    counts = [f"{recorded.count(p)} by part {p}" for p in sorted(set(recorded))]
    return ("golden.parts", True, f"items answered as recorded: {', '.join(counts)}")


def mixed(manifest: Json, calls: list[Any]) -> list[Any]:
    """Return golden calls in the shares of early and late answers that the calibration has seen."""
    last = len(manifest["dynamic"]["parts"]) - 1
    recorded = manifest["dynamic"]["golden"]
    early = [call for call, part in zip(calls, recorded) if part < last]  # noqa: B905
    late = [call for call, part in zip(calls, recorded) if part == last]  # noqa: B905
    if not early or not late:
        return calls
    share, found = manifest["dynamic"]["calibration"]["early_share"], []
    for i in range(1000):
        kind = early if math.floor((i + 1) * share) > math.floor(i * share) else late
        found.append(kind[i % len(kind)])
    return found


def counted(manifest: Json, parts: list[int]) -> Json:
    """Return the share of early answers, and a warning where it is not that of the calibration."""
    last = len(manifest["dynamic"]["parts"]) - 1
    calibration = manifest["dynamic"]["calibration"]
    share = sum(part < last for part in parts) / len(parts)
    low, high = calibration["early_share_interval"]
    nearest = min(max(share, low), high)
    noise = SURE * math.sqrt(nearest * (1 - nearest) / len(parts))
    told = {"early_share": share, "early_share_of_calibration": calibration["early_share"]}
    if len(parts) < FEWEST_ITEMS or abs(share - nearest) <= noise:
        return told
    return {
        **told,
        "warning": f"{share:.1%} of {len(parts)} items were answered early, at calibration it was "
        f"{calibration['early_share']:.1%}: these are other items, and what was promised of the "
        "accuracy does not hold for them",
    }
