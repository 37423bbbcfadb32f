"""What is measured, where, how long, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.bench.next_tokens import NextTokens
from kdeploy.bench.plan import Scenario
from kdeploy.runtimes.contract import Proof

Seconds = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUnderTest:
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
class Configuration:
    """The conditions that all models of one comparison share."""

    runtime: str
    batch_size: int
    """Items of a request; `offline` looks for the largest from here on."""
    threads: int
    scenario: Scenario = "single_stream"
    size: tuple[int, ...] = ()
    """Height and width, or length, that items are brought to; () leaves them as they are."""

    def __str__(self) -> str:
        size = "x".join(str(extent) for extent in self.size)
        scenario = self.scenario if self.scenario != "single_stream" else ""
        told = (self.runtime, f"b{self.batch_size}", f"t{self.threads}", scenario, size)
        return "-".join(part for part in told if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All that was seen of one model in one configuration; `skipped` says why there is nothing."""

    model: ModelUnderTest
    configuration: Configuration
    skipped: str | None = None
    largest_batch: int | None = None
    """Items of the batch that `offline` found."""
    input_shape: tuple[int, ...] = ()
    """Of an item."""
    load_seconds: float = 0.0
    first_seconds: float = 0.0
    rounds: tuple[Seconds, ...] = ()
    """The time of each batch, a round an array."""
    elapsed_seconds: tuple[float, ...] = ()
    """Of each round, from its first batch to its last."""
    device_rounds: tuple[Seconds, ...] = ()
    """The same by the device's own clock, empty where it has none; never the same batches."""
    parts: Mapping[str, tuple[Seconds, ...]] = field(default_factory=dict)
    """Of scenario `generate`: times of prompts, first tokens and later ones, a round an array."""
    peak_memory_bytes: int | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Further metrics that are one number each: cold start, memory, energy, the server's rate."""
    proof: Proof | None = None
    accuracy: Mapping[str, float] = field(default_factory=dict)
    predictions: NDArray[Any] | None = None
    """On the test items."""
    validation_accuracy: Mapping[str, float] = field(default_factory=dict)
    validation_predictions: NDArray[Any] | None = None
    next_tokens: NextTokens | None = None
    """Of language models: where the likeliest tokens of the test part are not the teacher's."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Metrics that were asked for and failed alone, with the reason."""
    flags: tuple[str, ...] = ()

    @property
    def batch_size(self) -> int:
        """Return the items of a batch that was timed."""
        return self.largest_batch or self.configuration.batch_size
