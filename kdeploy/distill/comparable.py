"""Whether losses can compare two models: tried on two items, before anything is trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from kdeploy.data.contract import Dataset
from kdeploy.distill.contract import TaskFacts
from kdeploy.distill.default_layers import with_layers
from kdeploy.distill.loss_specs import loss_specs_of
from kdeploy.distill.objective import DistillObjective
from kdeploy.distill.schedules import Constant
from kdeploy.distill.teacher import Teacher
from kdeploy.tasks.contract import task_of
from kdeploy.torch_module.named_inputs import tensors_of
from kdeploy.training.contract import Batch


def example_of(data: Dataset) -> Batch:
    """Return the first two items of the training part, preprocessed."""
    return Batch(
        x=tensors_of(data.preprocessing.apply(data.train.x[:2])),
        labels=torch.from_numpy(np.array(data.train.y[:2])),
        rows=torch.arange(2),
    )


def facts_of(data: Dataset) -> TaskFacts:
    """Return what losses with weights or a memory may know."""
    return TaskFacts(num_classes=data.num_classes, num_items=len(data.train), task=task_of(data))


def check_comparable(
    student: nn.Module,
    teacher: nn.Module,
    data: Dataset,
    losses: Sequence[Mapping[str, Mapping[str, Any]]],
) -> None:
    """Compute all losses once for the student and a copy of the teacher, trained or not.

    Raises:
        UnknownName: a layer that does not exist.
        ModelError: layers that do not run, or features that cannot be compared.
    """
    example = example_of(data)
    with torch.random.fork_rng(devices=[]):  # adapters draw their first weights
        other = Teacher(copy.deepcopy(teacher) if teacher is student else teacher)
        specs, _ = with_layers(loss_specs_of(losses), student, next(iter(other.models)), example.x)
        DistillObjective(
            student,
            other,
            specs,
            label_weight=Constant(value=1.0),
            example=example,
            facts=facts_of(data),
        )
