"""What a compressor is: a function from a model and its context to a smaller model.

`@compressor(paper=, before={...}, ensures=check)` marks `(model, context, *, ...) -> model`.
Further facts, literals all of them:
    before       names of the techniques that may only come later in a chain
    recoverable  False: the result cannot be trained
    trains       True: the technique trains by itself, by `context.train`; its own parameters
                 `epochs` and `learning_rate` are those of that training, and `recover` says the
                 rest of it (losses, optimizer, ...)
    sparse       True: zeros that it made stay zero in every later training
    machine      True: the result depends on the processor that it is made on
    makes        "int8", "int8_dynamic", "int4_weights" or "two_four": what exporters may refuse
                 (`refuses`), and runtimes and metrics may need (`needs`)
    takes        "decoder": takes decoders of transformers, and refuses all other models
    formats      {"torch", "onnx"}: takes an `OnnxModel` as well, and returns one then
`ensures(model) -> None` raises `AssertionError` when the result does not hold what the technique
promises; that of a sparse one is asked again after each later step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from kdeploy.data.contract import NOT_COUNTED, Dataset, Split
from kdeploy.errors import DataError, ModelError, OrderError
from kdeploy.quantization.contract import quantized_by
from kdeploy.registration import Decorated, register
from kdeploy.torch_module.named_inputs import tensors_of
from kdeploy.training.fit import Constraint

compressor: Callable[..., Callable[[Decorated], Decorated]] = partial(register, "compressor")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTraining:
    """What a technique says of a training of its step; the rest says its `recover`."""

    name: str
    """Other than that of any other training of the step."""
    constraints: Sequence[Constraint] = ()
    """What the weights hold to."""
    keep: str | None = None
    """The "best" or the "last" epoch; None: as `recover` says."""
    is_last: bool = False
    """Whether it is the recovery: none follows the step."""


class Train(Protocol):
    """Distilled fine-tuning inside of a step, with the settings of its `recover`."""

    def __call__(self, model: nn.Module, teacher: nn.Module, training: StepTraining) -> object:
        """Train `model` in place; it ends on the CPU, in eval mode.

        Args:
            model: Learns.
            teacher: Is asked, the model before the step as a rule.
            training: What the technique wants of it.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How latencies are measured for a technique."""

    runtime: str
    """One that opens ONNX files."""
    batch_size: int = 1
    """Items in a batch."""
    threads: int | None = None
    """None: all cores."""
    seconds: float = 0.5
    """Each model is measured at least so long."""


class Stopwatch(Protocol):
    """Latencies on a runtime, of the files that the models are exported to."""

    def __call__(self, models: Sequence[nn.Module], example: Tensor, timing: Timing) -> list[float]:
        """Return the median latency of one batch of each model, in seconds.

        The models take turns, each in a process of its own.

        Args:
            models: In eval mode, on the CPU.
            example: Two rows of input.
            timing: Where, and how long.
        """
        ...


def no_training(name: str) -> ModelError:
    """Return the error of a step that trains where nothing says how."""
    return ModelError(
        f"this step trains the model (`{name}`), and nothing says how",
        hint="add `recover: {epochs: 3}` to the step (`--recover '{epochs: 3}'`)",
    )


def cannot_train(model: nn.Module, teacher: nn.Module, training: StepTraining) -> None:
    """Refuse: whoever called the technique gave nothing to train with."""
    raise no_training(training.name)


def cannot_measure(models: Sequence[nn.Module], example: Tensor, timing: Timing) -> list[float]:
    """Refuse: whoever called the technique gave nothing to measure with."""
    raise ModelError(
        f"this step measures latencies on `{timing.runtime}`, and its caller gave no stopwatch",
        hint="call it by `kdeploy run` or `kdeploy compress`",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressContext:
    """What a compressor may look at: training and validation data, never the test part."""

    data: Dataset
    seed: int = 0
    device: str = "cpu"
    train: Train = cannot_train
    stopwatch: Stopwatch = cannot_measure
    is_recovered: bool = False
    """Whether `recover` says how what the step makes is trained; a technique may do so itself, and
    says that by `StepTraining.is_last`."""
    is_validation_seen: bool = False
    """Whether the model may have been trained on the validation items, which drops are seen by."""
    report: dict[str, Any] = field(default_factory=dict)
    """What people shall be told of the step, by topic: plain JSON, a table is a list of rows
    `[{"layer": ..., ...}]`. It stands in the manifest and in the reports."""

    @property
    def example(self) -> Tensor:
        """Return two preprocessed training items (2, *shape): enough to trace a model."""
        return next(self.batches(self.data.train, 2, 1))[0]

    def labelled(self, part: Split, batch_size: int, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches as `batches` does, of a part whose labels are used.

        Raises:
            DataError: it has none.
        """
        if not part.is_labelled:
            raise DataError(
                f"this step reads the labels of `{self.data.name}`, which has none",
                hint="take a way that needs none (`importance: bn_scale`), or data with labels",
            )
        return self.batches(part, batch_size, count)

    def calibration(self, batch_size: int, count: int) -> Iterator[Tensor]:
        """Yield up to `count` preprocessed batches to see ranges on: unlabelled items, or train."""
        part = self.data.train
        if self.data.unlabelled is not None:
            x = self.data.unlabelled
            part = Split(x=x, y=np.full(len(x), NOT_COUNTED, np.int64))
        return (x for x, _ in self.batches(part, batch_size, count))

    def batches(self, part: Split, batch_size: int, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield up to `count` preprocessed batches and labels, drawn by the seed, no item twice."""
        order = np.random.default_rng(self.seed).permutation(len(part))
        for start in range(0, min(len(order), batch_size * count), batch_size):
            # Sorted, so that memory-mapped data is read forwards.
            rows = np.sort(order[start : start + batch_size])
            x = tensors_of(self.data.preprocessing.apply(part.x[rows]))
            yield x.to(self.device), torch.from_numpy(part.y[rows]).to(self.device)


def refuse_integers(model: nn.Module, technique: str) -> None:
    """Raise OrderError where the weights, which the technique changes, are integers already."""
    if by := quantized_by(model):
        raise OrderError(
            f"`{technique}` changes float weights, and the model is quantized already (`{by}`)",
            hint=f"put `{technique}` before the step that quantizes",
        )
