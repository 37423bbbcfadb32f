"""`kdeploy.Objective`: what a student learns from a teacher, for a training loop of one's own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from kdeploy import registry
from kdeploy.api.models import Model, load
from kdeploy.distill.config import DistillConfig
from kdeploy.distill.contract import TaskFacts
from kdeploy.distill.correctness import MAPS, WeightOfWrong
from kdeploy.distill.default_layers import with_layers
from kdeploy.distill.default_weights import DEFAULT_LABEL_WEIGHT, usual_losses
from kdeploy.distill.loss_specs import LossSpec, loss_specs_of
from kdeploy.distill.objective import DistillObjective
from kdeploy.distill.task_fit import check_task
from kdeploy.distill.teacher import Teacher
from kdeploy.errors import ModelError, RecipeError
from kdeploy.tasks.contract import Task, is_of_classes
from kdeploy.torch_module.named_inputs import NamedTensors
from kdeploy.training.contract import Batch

_log = logging.getLogger("kdeploy.progress")
CLASSES, MASKS = "classification", "segmentation"


class Objective(nn.Module):
    """The loss of a batch: `loss = objective(inputs, targets)`; `loss.backward()` as ever.

    Its parameters are the student's and those that losses train beside it. The teacher is no part
    of its state: it stays in eval mode, gets no gradient, and moves along with `.to(device)`.

    Args:
        student: An nn.Module; it is trained in place.
        teacher: An nn.Module, a model of another step, a reference, an artefact or an ONNX file.
        losses: As in a recipe: `[{"kd": {"temperature": 4.0}}]`; left out, `kd`, of pixels `dist`.
        label_weight: Weight of the cross-entropy with the targets, a number or a schedule; 0
            needs no targets. Left out, it is 1, and losses whose weights are left out too are kept
            in balance with it by their gradients, as `kdeploy.distill` does.
        example: Inputs of a few items. Losses that train weights of their own have to see what
            they compare before an optimizer is made; others look at the first batch.
        num_items: Of the training part; losses that remember each item need it, and `rows`.
        task: What outputs and targets mean: classes of items, of `tokens`, or of the pixels of
            masks, `segmentation`.

    Raises:
        RecipeError: a loss that does not fit the task, or a task of which data have to say more.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Any,
        *,
        losses: Sequence[str | Mapping[str, Any]] | None = None,
        label_weight: float | Mapping[str, Any] | None = None,
        example: Tensor | Mapping[str, Tensor] | None = None,
        num_items: int = 0,
        task: str = CLASSES,
    ) -> None:
        super().__init__()
        self._task = _task(task)
        given: dict[str, Any] = {"losses": list(losses or ())}
        if losses is None:
            given = {"losses": ["kd"]}
            if task == MASKS:
                usual = list(usual_losses(task))
                given = {"losses": usual, "label_weight": DEFAULT_LABEL_WEIGHT}
        if label_weight is not None:
            given["label_weight"] = label_weight
        config = registry.check(DistillConfig, given, where="Objective")
        if task != CLASSES:
            check_task(config, task)
        self.student = student
        self.loss_bank: nn.Module | None = None
        self.components: dict[str, Tensor] = {}
        """Of the last batch, by name, weighted; `labels` is the cross-entropy."""
        self._teacher = Teacher(_module(teacher))
        self._specs = loss_specs_of(config.losses)
        self._config = config
        self._step = 0
        self._num_items = num_items
        # A list: a module would be registered, and its tensors stand in the state twice.
        self._objective: list[DistillObjective] = []
        if example is not None:
            self._build(_as_given(example))
        elif (wanting := next(filter(_trains, self._specs), None)) is not None:
            raise RecipeError(
                f"the loss `{wanting.name}` trains weights of its own, which an optimizer has to "
                "know, and no example says what it compares",
                hint="`Objective(..., example=inputs)` with the inputs of a few items",
            )

    def forward(
        self,
        inputs: Tensor | Mapping[str, Tensor],
        targets: Tensor | None = None,
        *,
        progress: float = 0.0,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of a batch.

        Args:
            inputs: What both models take; several by the names of `forward`'s parameters.
            targets: Classes; left out where `label_weight` is 0.
            progress: The part of the whole training that is done, 0 to 1, for schedules.
            rows: Places of the items in the training part, for losses that remember them.
        """
        inputs = _as_given(inputs)
        objective = self._objective[0] if self._objective else self._build(inputs)
        if targets is None and any(self._config.labels.values()):
            raise RecipeError(
                "the objective learns from labels too, and this batch has none",
                hint="`objective(inputs, targets)`, or `Objective(..., label_weight=0)`",
            )
        batch = Batch(
            x=inputs,
            labels=inputs.new_zeros(len(inputs), dtype=torch.long) if targets is None else targets,
            rows=torch.arange(len(inputs)) if rows is None else rows,
            progress=progress,
            step=self._step,
        )
        self._step += 1
        parts = objective(batch)
        self.components = {name: value.detach() for name, value in parts.items()}
        return sum(parts.values(), start=inputs.new_zeros((), dtype=torch.float32))

    def _build(self, inputs: Tensor) -> DistillObjective:
        """Look at what the two models answer, and make what compares it."""
        few = inputs[:2].detach()
        rows = torch.arange(len(few))
        labels = few.new_zeros(len(few), dtype=torch.long)
        self._teacher.model.to(few.device)
        specs, said = with_layers(self._specs, self.student, self._teacher.model, few)
        for sentence in said:
            _log.info("%s", sentence)
        with torch.no_grad():
            answer = self._teacher(Batch(x=few, labels=labels, rows=rows), ()).logits
        shape = _checked(self._task.distillable(answer).shape, self._task.name)
        if self._task.name == MASKS:  # they have the size of the images
            labels = labels.new_zeros(len(few), *few.shape[2:])
        made = DistillObjective(
            self.student,
            self._teacher,
            specs,
            label_weight=self._config.labels,
            example=Batch(x=few, labels=labels, rows=rows),
            # As many classes as the teacher has logits: no data say it here.
            facts=TaskFacts(
                num_classes=shape[1 if self._task.name == MASKS else -1],
                num_items=self._num_items or len(few),
                task=self._task,
            ),
            balanced=[spec.name for spec in specs if spec.is_balanced],
            # An own loop says nothing of progress: unless a weight is given, errors do not count.
            of_wrong=WeightOfWrong(self._config.weight_of_wrong),
        )
        self._objective.append(made)
        self.loss_bank = made.loss_bank
        return made

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Objective:
        self._teacher.apply(fn, recurse=recurse)
        for balance in (made.balance for made in self._objective if made.balance is not None):
            balance._apply(fn, recurse)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def _module(teacher: Any) -> nn.Module:
    if isinstance(teacher, nn.Module):
        return teacher
    return teacher.module if isinstance(teacher, Model) else load(teacher)


def _as_given(inputs: Tensor | Mapping[str, Tensor]) -> Tensor:
    return cast("Tensor", NamedTensors(inputs)) if isinstance(inputs, Mapping) else inputs


def _trains(spec: LossSpec) -> bool:
    return spec.adapt or spec.is_module


def _task(name: str) -> Task:
    known = registry.find("task", name, where="Objective")
    if is_of_classes(name):
        return cast("Task", known.load()())
    able = ", ".join(f"`{task}`" for task in registry.techniques("task") if is_of_classes(task))
    raise RecipeError(
        f"Objective: what `{name}` asks of outputs depends on its data, and a loop shows batches",
        hint=f'`kdeploy.distill(..., data=Data(..., task="{name}"))`; a loop may be of {able}, or '
        "learn from the teacher alone: `losses=[...]`, `label_weight=0`",
    )


def _checked(shape: torch.Size, task: str) -> torch.Size:
    """Return the shape of an answer; refuse one of pixels where the task is another, and back."""
    if (len(shape) == MAPS) == (task == MASKS):
        return shape
    places = "(N, classes, height, width)" if task == MASKS else "the classes last"
    raise ModelError(
        f"the teacher answers {tuple(shape)}, and the task is `{task}`, which has {places}",
        hint=f'of the classes of pixels `Objective(..., task="{MASKS}")`, of items none is named',
    )
