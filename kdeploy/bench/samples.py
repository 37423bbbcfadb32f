"""Raw samples, kept so that every number can be computed again."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdeploy.bench.doubts import unstable_rounds
from kdeploy.bench.model_under_test import Outcome, Seconds


def keep(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Write an npz for each outcome: RUNTIME-bBATCH-tTHREADS-LABEL.npz.

    It holds the `seconds` of each batch, the `round` that each is of, `elapsed_seconds` of each
    round, which are `unstable_rounds`, the same with `device_` in front by the device's clock, the
    runtime's `settings` as JSON, and the `predictions` where accuracy was measured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    for number, outcome in enumerate(outcomes):
        if outcome.skipped is not None:
            continue
        name = re.sub(r"[^\w.-]+", "-", f"{outcome.configuration}-{outcome.model.name}")
        name = name if name not in taken else f"{name}-{number}"
        taken.add(name)
        np.savez_compressed(folder / f"{name}.npz", **_arrays(outcome))


def _arrays(outcome: Outcome) -> dict[str, Any]:
    arrays: dict[str, Any] = {
        **_flat("", outcome.rounds),
        "elapsed_seconds": np.array(outcome.elapsed_seconds),
        "unstable_rounds": np.array(unstable_rounds(outcome.rounds), np.int64),
        **(_flat("device_", outcome.device_rounds) if outcome.device_rounds else {}),
        "settings": np.array(json.dumps(outcome.proof.settings if outcome.proof else {})),
    }
    if outcome.predictions is not None:
        arrays["predictions"] = outcome.predictions
    return arrays


def _flat(prefix: str, rounds: Sequence[Seconds]) -> dict[str, Any]:
    counts = [len(samples) for samples in rounds]
    numbers = np.repeat(np.arange(len(counts)), counts)
    return {f"{prefix}seconds": np.concatenate(rounds), f"{prefix}round": numbers}
