"""The one training loop: it takes an objective and data, and resumes where it was interrupted.

All randomness of an epoch (order, augmentation, dropout) follows from the seed and the epoch's
number, and the learning rate from the step: a checkpoint holds tensors and counters, no state of
a random generator, and a resumed training ends in the same weights as an undisturbed one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
from torch import Tensor, nn

from kdeploy.data.contract import Dataset
from kdeploy.tasks.contract import Task, classification
from kdeploy.training.compilation import Call
from kdeploy.training.contract import (
    Batch,
    Constraint,
    EpochRecord,
    FitContext,
    FitResult,
    NullCallback,
    Objective,
    TrainingCallback,
    TrainingSettings,
)
from kdeploy.training.loop import Training
from kdeploy.training.predict import accuracy, check_outputs, predict
from kdeploy.training.views import View

if TYPE_CHECKING:
    from pydantic import Field

__all__ = [
    "Batch",
    "Constraint",
    "EpochRecord",
    "FitContext",
    "FitResult",
    "NullCallback",
    "Objective",
    "Supervised",
    "TrainingCallback",
    "accuracy",
    "check_outputs",
    "fit",
    "predict",
]


class Supervised(nn.Module):
    """The plain objective: the task's loss with the labels."""

    may_be_zero: frozenset[str] = frozenset()

    def __init__(
        self, student: nn.Module, label_smoothing: float = 0.0, *, task: Task | None = None
    ) -> None:
        super().__init__()
        self.student = student
        self.task = task or classification()
        self._call = Call(student)
        self.label_smoothing = label_smoothing
        self.fingerprint = f"supervised, label smoothing {label_smoothing}"

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the one component `labels`."""
        logits = self._call(batch.x)
        loss = self.task.label_loss(logits, batch.labels, label_smoothing=self.label_smoothing)
        return {"labels": loss}

    def prepare(self, view: View) -> None: ...

    def compile_parts(self) -> None:
        self._call.compile()

    def validated(self, accuracy: float) -> None: ...


def fit(
    objective: Objective,
    data: Dataset,
    context: FitContext,
    *,
    epochs: Annotated[int, Field(ge=0)] = 10,
    batch_size: Annotated[int, Field(gt=0)] = 128,
    accumulate: Annotated[int, Field(gt=0)] = 1,
    optimizer: Literal["sgd", "adamw"] = "sgd",
    learning_rate: Annotated[float, Field(gt=0)] = 0.1,
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4,
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9,
    schedule: Literal["cosine", "one_cycle", "constant"] = "cosine",
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0,
    clip_norm: Annotated[float, Field(gt=0)] | None = None,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    channels_last: bool = True,
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None,
    views: Annotated[int, Field(ge=0)] = 0,
    compile: Literal["auto", "on", "off"] = "auto",
    keep: Literal["best", "last"] = "best",
) -> FitResult:
    """Train the objective's modules in place; the student ends on the CPU, in eval mode.

    Args:
        objective: All that is trained, and what is minimised.
        data: The training part is learned, the validation part decides; test is not touched.
        context: Seed, device, folder of the checkpoints, who watches.
        epochs: Passes over the training part; 0 only measures the model as it is.
        batch_size: Items to a step, of all processes together.
        accumulate: Parts that a step is cut into, one after another: less memory, and but for batch
            norm the same gradient.
        optimizer: `sgd` (Nesterov momentum) or `adamw` (needs a learning rate near 0.001).
        learning_rate: The highest of the schedule.
        weight_decay: On all weights; adamw decouples it from the gradient.
        momentum: Of sgd; the first beta of adamw.
        schedule: `cosine` falls to 0, `one_cycle` rises, then falls to 0, `constant` stays.
        warmup_epochs: Epochs of linear rise at the start; for `one_cycle` the length of its rise
            (0: three tenths of the training).
        clip_norm: Largest norm of all gradients together; null: not clipped.
        precision: `bf16` is autocast with float32 weights; `auto` uses it where the hardware
            has it, and float32 in layers that bf16 lacks an operator for.
        channels_last: Memory layout of images that convolutions are fastest in; not where its
            kernels fail on the shapes to come.
        ema: Decay of a moving average of the weights that is validated and kept instead of the
            weights themselves, e.g. 0.999; null: no average.
        views: Augmented versions of each item, the same in every run, so that a teacher answers on
            each only once and its answers are kept; 8 is plenty. 0: every epoch draws anew.
        compile: `torch.compile` of the models; `auto` where the training is so long that it pays.
        keep: Weights of the epoch that is `best` on the validation part (of equals the later), or
            of the `last`.

    Raises:
        ModelError: the student does not run on the data or has another number of classes.
        TrainingDiverged: a loss is not a finite number, or a component is zero all epoch.
    """
    settings = TrainingSettings(
        epochs=epochs,
        batch_size=batch_size,
        accumulate=accumulate,
        optimizer=optimizer,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        momentum=momentum,
        schedule=schedule,
        warmup_epochs=warmup_epochs,
        clip_norm=clip_norm,
        precision=precision,
        channels_last=channels_last,
        ema=ema,
        views=views,
        compile=compile,
        keep=keep,
    )
    check_outputs(objective.student, data, name="student")
    training = Training(objective, data, context, settings)
    try:
        # The caller's random numbers are as if nothing had been trained.
        with torch.random.fork_rng(devices=training.cuda_devices):
            return training.run()
    finally:
        context.watcher.ended()
