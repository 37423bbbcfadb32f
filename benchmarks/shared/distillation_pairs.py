"""The panel of distillation pairs: data that is at hand, a teacher and a student of each kind.

Everything is small, so that one training takes seconds on one core: a few thousand pictures of
Fashion-MNIST, scikit-learn's digits in pairs, short time series, definitions of WordNet. Teachers
are trained once, by a plain loop, and kept; every arm of every suite asks the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.shared import pair_networks

NETWORKS = Path(pair_networks.__file__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A function of `pair_networks` and its arguments."""

    build: str
    args: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, *, seed: int = 0) -> nn.Module:
        """Return it with the first weights of a seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made: nn.Module = getattr(pair_networks, self.build)(**self.args)
        return made

    def reference(self) -> dict[str, Any]:
        """Return it as a recipe names it."""
        return {"build": f"{NETWORKS}:{self.build}", "args": dict(self.args)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What is to be learned, from whom, and by whom."""

    data: str
    teacher: Network
    student: Network
    teacher_data: str | None = None
    """What the teacher learned from; None: the same."""
    teacher_epochs: int = 10
    label_smoothing: float = 0.0
    """Of the teacher's training."""
    task: str = "classification"
    is_fresh: bool = False
    """Whether no default was chosen with it."""


MORE = "fashion12000"
"""Six times as many pictures as a student sees: of a teacher that somebody took trouble with."""
WIDE = Network(build="convolutional", args={"width": 24, "depth": 2})
NARROW = Network(build="convolutional", args={"width": 6, "depth": 1})
SHALLOW = Network(build="convolutional", args={"width": 16, "depth": 1})
SEPARABLE = Network(build="convolutional", args={"width": 16, "depth": 1, "separable": True})
TRANSFORMER = Network(build="row_transformer", args={"width": 48, "layers": 3})
LSTM, GRU = Network(build="row_lstm"), Network(build="row_gru")
HUNDRED = {"num_classes": 100}
FOUR_NUMBERS = {"in_channels": 3, "num_classes": 4}
TWO_KINDS = {"in_channels": 1, "num_classes": 2}
LEAVES = {"in_channels": 1, "num_classes": 6}
STRONG = Pair(data="fashion", teacher=WIDE, student=NARROW, teacher_data=MORE, teacher_epochs=4)
ATTENTIVE = replace(STRONG, teacher=TRANSFORMER, teacher_epochs=6)

PAIRS: Mapping[str, Pair] = {
    "cnn to narrow cnn": STRONG,
    "cnn to shallow cnn": replace(STRONG, student=SHALLOW),
    "cnn to depthwise cnn": replace(STRONG, student=SEPARABLE),
    "cnn to lstm": replace(STRONG, student=LSTM),
    "cnn to gru": replace(STRONG, student=GRU),
    "transformer to transformer": replace(
        ATTENTIVE, student=Network(build="row_transformer", args={"width": 24, "layers": 1})
    ),
    "transformer to lstm": replace(ATTENTIVE, student=LSTM),
    "smoothed teacher": replace(STRONG, label_smoothing=0.1),
    "few data": replace(STRONG, data="few"),
    "weak teacher": replace(STRONG, teacher_data="few", teacher_epochs=8),
    "time series, cnn to gru": Pair(
        data="series",
        teacher=Network(build="series_convolutional"),
        student=Network(build="series_gru"),
        teacher_epochs=40,
    ),
    "text, transformer to lstm": Pair(
        data="text",
        teacher=Network(build="text_transformer"),
        student=Network(build="text_lstm"),
        teacher_epochs=6,
    ),
    "hundred classes": Pair(
        data="hundred",
        teacher=replace(WIDE, args={**WIDE.args, **HUNDRED}),
        student=replace(NARROW, args={"width": 8, "depth": 1, **HUNDRED}),
    ),
    "cnn to lstm, 8000 items": Pair(
        data="fashion8000", teacher=WIDE, student=LSTM, teacher_epochs=2
    ),
    "regression, where clothing lies": Pair(
        data="places",
        teacher=replace(WIDE, args={**WIDE.args, **FOUR_NUMBERS}),
        student=replace(NARROW, args={"width": 8, "depth": 1, **FOUR_NUMBERS}),
        teacher_data="places2000",
        teacher_epochs=8,
        task="regression",
        is_fresh=True,
    ),
    "regression, a table": Pair(
        data="diabetes",
        teacher=Network(build="columns_network"),
        student=Network(build="columns_network", args={"width": 8, "layers": 1}),
        teacher_epochs=20,
        task="regression",
        is_fresh=True,
    ),
    "segmentation": Pair(
        data="masks",
        teacher=Network(build="segmenting", args={"width": 12}),
        student=Network(build="segmenting", args={"width": 4}),
        teacher_data="masks2000",
        teacher_epochs=8,
        task="segmentation",
    ),
    "two classes, electricity": Pair(
        data="electricity",
        teacher=Network(build="series_convolutional", args=TWO_KINDS),
        student=Network(build="series_gru", args=TWO_KINDS),
        teacher_epochs=40,
    ),
    "two classes, cnn to narrow cnn": Pair(
        data="shirts",
        teacher=replace(WIDE, args={**WIDE.args, "num_classes": 2}),
        student=replace(NARROW, args={**NARROW.args, "num_classes": 2}),
        teacher_data="shirts2400",
        teacher_epochs=5,
    ),
    "two classes, gestures": Pair(
        data="gestures",
        teacher=Network(build="series_convolutional", args=TWO_KINDS),
        student=Network(build="series_convolutional", args={"width": 8, **TWO_KINDS}),
        teacher_epochs=40,
        is_fresh=True,
    ),
    "leaves, cnn to narrow cnn": Pair(
        data="leaves",
        teacher=Network(build="series_convolutional", args=LEAVES),
        student=Network(build="series_convolutional", args={"width": 8, **LEAVES}),
        teacher_epochs=40,
        is_fresh=True,
    ),
    "text of verbs, transformer to lstm": Pair(
        data="text of verbs",
        teacher=Network(build="text_transformer"),
        student=Network(build="text_lstm"),
        teacher_epochs=6,
        is_fresh=True,
    ),
}
