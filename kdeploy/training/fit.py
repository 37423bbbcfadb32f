"""The one training loop: it takes an objective and data, and resumes where it was interrupted.

All randomness of an epoch (order, augmentation, dropout) follows from the seed and the epoch's
number, and the learning rate from the step: a checkpoint holds tensors and counters, no state of
a random generator, and a resumed training ends in the same weights as an undisturbed one.
"""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor, nn

from kdeploy.data.contract import Dataset
from kdeploy.system.heap import freed_memory_kept
from kdeploy.tasks.contract import Task, classification
from kdeploy.training.checkpoint import fingerprint_of
from kdeploy.training.compilation import CompiledCall
from kdeploy.training.config import TrainingConfig
from kdeploy.training.contract import (
    Batch,
    Constraint,
    EpochRecord,
    FitContext,
    FitResult,
    NullCallback,
    Objective,
    TrainingCallback,
)
from kdeploy.training.gradient_checkpointing import checkpointed
from kdeploy.training.loop import Training
from kdeploy.training.lora import adapted
from kdeploy.training.predict import accuracy, check_outputs, predict
from kdeploy.training.views import View

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
    "TrainingConfig",
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
        self._call = CompiledCall(student)
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
    objective: Objective, data: Dataset, context: FitContext, config: TrainingConfig
) -> FitResult:
    """Train the objective's modules in place; the student ends on the CPU, in eval mode.

    Args:
        objective: All that is trained, and what is minimised.
        data: The training part is learned, the validation part decides; test is not touched.
        context: Seed, device, folder of the checkpoints, who watches.
        config: How long, in which steps, by which optimizer.

    Raises:
        ModelError: the student does not run on the data or has another number of classes.
        TrainingDiverged: a loss is not a finite number, or a component is zero all epoch.
    """
    # Before the processes join: a wrong model is told at once, and by one of them.
    check_outputs(objective.student, data, name="student")
    with ExitStack() as stack:
        stack.enter_context(freed_memory_kept())
        frozen = ""
        if config.lora is not None and config.trains:
            # Its state is without them then, and they decide the result.
            frozen = fingerprint_of({}, objective.student)
            stack.enter_context(adapted(objective.student, config.lora, data, context))
        if config.checkpoint_activations and config.trains:
            stack.enter_context(checkpointed(objective.student, data))
        training = Training(objective, data, context, config, frozen=frozen)
        try:
            # The caller's random numbers are as if nothing had been trained.
            with torch.random.fork_rng(devices=training.cuda_devices):
                return training.run()
        finally:
            context.callback.ended()
