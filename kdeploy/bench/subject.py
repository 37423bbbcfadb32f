"""What is measured, where, how long, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.load import DataReference
from kdeploy.runtimes.contract import Proof

Seconds = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A file, or an artefact folder, and how its rows are called."""

    artifact: str
    label: str
    path: Path
    """The artefact's folder for format "torch", the file for any other."""
    format: str
    stage: str = ""
    technique: str = ""
    profile: str = ""
    parameters: int | None = None
    macs: int | None = None

    @property
    def name(self) -> str:
        """The label, and the profile where one model was exported for several."""
        return f"{self.label}-{self.profile}" if self.profile else self.label


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """The conditions that all subjects of one comparison share."""

    runtime: str
    batch_size: int
    threads: int

    def __str__(self) -> str:
        return f"{self.runtime}-b{self.batch_size}-t{self.threads}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long is measured, and on which data."""

    data: DataReference | None
    accuracy: bool
    minimum_seconds: float
    minimum_count: int
    timeout_seconds: float
    rounds: int = 8
    """Turns that each subject takes; the intervals are drawn over them."""

    @property
    def window_seconds(self) -> float:
        """Length of a window of the warm-up, of which three must agree."""
        return self.minimum_seconds / self.rounds

    @property
    def warm_up_limit_seconds(self) -> float:
        return max(2.0, 5 * self.minimum_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All that was seen of one subject in one cell; `skipped` says why there is nothing."""

    subject: Subject
    cell: Cell
    skipped: str | None = None
    load_seconds: float = 0.0
    first_seconds: float = 0.0
    rounds: tuple[Seconds, ...] = ()
    """The time of each batch, a round an array."""
    elapsed_seconds: tuple[float, ...] = ()
    """Of each round, from its first batch to its last."""
    peak_memory_bytes: int | None = None
    proof: Proof | None = None
    accuracy: Mapping[str, float] = field(default_factory=dict)
    predictions: NDArray[np.int64] | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    """Metrics that were asked for and failed alone, with the reason."""
    flags: tuple[str, ...] = ()
