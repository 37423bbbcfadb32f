"""What training is told, what it trains, who watches it, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from kdeploy.training.arithmetic import Arithmetic
from kdeploy.training.defaults import Settled
from kdeploy.training.early_look import EarlyLook, Seen
from kdeploy.training.rate_range_test import RateFound
from kdeploy.training.views import View


class Batch(NamedTuple):
    """What one step learns from, on the device of the training."""

    x: Tensor
    """Preprocessed items (batch, *shape); of several inputs `NamedTensors`, by name."""
    labels: Tensor
    """Class indices (batch,) or (batch, tokens); of a mix, probabilities (batch, classes)."""
    rows: Tensor
    """Places of the items in the training part, (batch,) int64, on the CPU."""
    view: int = -1
    """Which of the countable views of its items this is; -1: drawn anew, never to be seen again."""
    progress: float = 0.0
    """The part of the whole training that is done, from 0 to 1."""
    share: float = 1.0
    """The part of its optimizer step that it stands for: less than 1 where the step is cut."""
    step: int = -1
    """Number of its optimizer step, from 0; -1: none is made of it, it is only tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """One epoch as it went. `epoch` counts from 1; losses are weighted means over its images."""

    epoch: int
    epochs: int
    loss: float
    losses: dict[str, float]
    validation_accuracy: float
    images_per_second: float
    """Of the training part, without validation."""
    seconds: float
    learning_rate: float
    """Of the last step."""


class TrainingCallback(Protocol):
    """Someone who shows the progress; called on every step, so it must be cheap."""

    def started(self, name: str, epochs: int, steps: int, done_epochs: int) -> None:
        """Training begins: `steps` to an epoch, `done_epochs` come from a checkpoint."""
        ...

    def prepared(self, done: int, items: int) -> None:
        """Before an epoch's steps: the teacher has answered on `done` of all items of a view."""
        ...

    def stepped(self, images: int) -> None:
        """One step is queued; on a GPU it may not have run yet."""
        ...

    def epoch_ended(self, record: EpochRecord) -> None:
        """One epoch is trained, validated and saved."""
        ...

    def ended(self) -> None:
        """Training is over, also after an error or an interrupt."""
        ...


class NullCallback:
    """The silent default."""

    def started(self, name: str, epochs: int, steps: int, done_epochs: int) -> None: ...

    def prepared(self, done: int, items: int) -> None: ...

    def stepped(self, images: int) -> None: ...

    def epoch_ended(self, record: EpochRecord) -> None: ...

    def ended(self) -> None: ...


class Constraint(Protocol):
    """Something that the weights must hold to all through a training, e.g. zeros that stay.

    It keeps no state between epochs but the weights: an interrupted training begins it again. One
    that treats each number by itself says so, `is_elementwise = True`: it can do with parts.
    """

    fingerprint: str
    """What it does, so that a checkpoint made under another one is not resumed."""

    def begin(self, model: nn.Module) -> None:
        """See the student with the weights that the training goes on from, on its device."""
        ...

    def after_step(self, progress: float, learning_rate: float) -> None:
        """Mend the weights in place after an optimizer step; `progress` ends with 1."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FitContext:
    """Where and under which seed training runs; nothing here belongs to the recipe."""

    seed: int = 0
    work: Path | None = None
    """Folder of the checkpoints; None: an interrupted training starts anew."""
    cache: Path | None = None
    """Folder for what teachers said, shared by all trainings; None: a temporary one for each."""
    device: str = "auto"
    """`auto` (the GPU where there is one), `cpu`, `cuda` or `cuda:1`."""
    devices: int = 1
    """Processes that train together on each machine, one a device; `torchrun` starts them."""
    num_nodes: int = 1
    """Machines, which see the same files."""
    name: str = "train"
    constraints: tuple[Constraint, ...] = ()
    """Applied in this order after each optimizer step."""
    look: EarlyLook | None = None
    """When what is right of the validation part is looked at on the way."""
    callback: TrainingCallback = field(default_factory=NullCallback)


class Objective(Protocol):
    """An `nn.Module` that holds all that is trained and returns what is minimised.

    It returns weighted, named components, each a scalar; their sum is the loss. An objective whose
    result also depends on what is not in its state (a teacher, weights of losses) says so in a
    string attribute `fingerprint`, so that a checkpoint of another objective is not resumed.
    """

    student: nn.Module

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Return the components for a batch; their names are the same all through an epoch."""
        ...


@runtime_checkable
class ObjectiveHooks(Protocol):
    """An objective that wants to know more than its batches."""

    may_be_zero: frozenset[str]
    """Components whose weight is 0 at times; any other that is 0 all epoch stops the training."""

    def prepare(self, view: View) -> None:
        """Hear, where views are countable, which one of all items the next epoch shows."""
        ...

    def compile_parts(self) -> None:
        """Compile what is worth it; called once, before the first step."""
        ...

    def validated(self, accuracy: float) -> None:
        """Hear the validation accuracy of an epoch, before the checkpoint is written."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """How training went; the student holds the weights of the epoch that was kept."""

    history: tuple[EpochRecord, ...]
    best_epoch: int
    """The best on the validation part; 0 when nothing was trained."""
    best_accuracy: float
    last_accuracy: float
    kept: str
    arithmetic: Arithmetic
    """What it was computed with."""
    settings: Settled
    """How it went, nothing left open."""
    chosen: Mapping[str, Any] = field(default_factory=dict)
    """What of it was left open and chosen here."""
    rate: RateFound | None = None
    """What the range test came to, where there was one."""
    seen: Seen | None = None
    """What was seen on the way, where it was asked for."""


@dataclass(slots=True, kw_only=True)
class Best:
    """The best epoch so far with the student's tensors."""

    epoch: int = 0
    accuracy: float = float("-inf")
    worth: float = float("-inf")
    """What epochs are compared by, see `Validated`."""
    state: Mapping[str, Any] = field(default_factory=dict)
