"""Losses on outputs see classes where the task has them: through the bank, not by themselves."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch.nn import functional

from kdeploy import registry
from kdeploy.distill.config import DistillConfig
from kdeploy.distill.contract import TaskFacts
from kdeploy.distill.loss_bank import LossBank
from kdeploy.distill.loss_specs import loss_specs_of, tasks_of
from kdeploy.distill.teacher_protocol import TeacherOutput
from kdeploy.tasks.contract import kin
from kdeploy.training.contract import Batch

ITEMS, CLASSES, HEIGHT, WIDTH = 3, 5, 4, 6


@dataclass(frozen=True)
class Shape:
    """Of a task's outputs and targets; `axis` is that of the classes."""

    outputs: tuple[int, ...]
    targets: tuple[int, ...]
    axis: int = -1


SHAPES = {
    "classification": Shape((ITEMS, CLASSES), (ITEMS,)),
    "tokens": Shape((ITEMS, WIDTH, CLASSES), (ITEMS, WIDTH)),
    "language_modeling": Shape((ITEMS, WIDTH, CLASSES), (ITEMS, WIDTH)),
    "segmentation": Shape((ITEMS, CLASSES, HEIGHT, WIDTH), (ITEMS, HEIGHT, WIDTH), axis=1),
    "ctc": Shape((ITEMS, WIDTH, CLASSES), (ITEMS, 2)),
}
"""Of the tasks whose outputs are logits of classes that exclude each other."""
VALUES = {"mse", "cosine"}
"""Losses of numbers as they are, which no softmax has a part in."""


def fitting(task):
    known = registry.techniques("loss").items()
    return [
        name
        for name, loss in known
        if set(tasks_of(loss)) & set(kin(task)) and loss.facts.get("needs", "logits") == "logits"
    ]


def value(task, name, student, teacher, targets, *, own_name=None):
    own = {"alphabet": "abcd"} if task == "ctc" else {}
    made = registry.find("task", task).load()(**own)
    if own_name is not None:
        made.name = own_name
    facts = TaskFacts(task=made, num_classes=CLASSES, num_items=ITEMS)
    config = registry.check(DistillConfig, {"losses": [name]}, where="distill")
    specs = loss_specs_of(config.losses)
    asked = TeacherOutput(logits=teacher, features={})
    torch.manual_seed(0)  # of what a loss draws
    bank = LossBank(specs, (student, {}), asked, facts, targets)
    batch = Batch(x=torch.zeros(ITEMS, 1), labels=targets, rows=torch.arange(ITEMS))
    return bank.value_of(specs[0].name, (student, {}), asked, batch).item()


def drawn(task):
    torch.manual_seed(1)
    shape = SHAPES[task]
    student, teacher = torch.randn(2, *shape.outputs)
    return 3 * student, 3 * teacher, torch.randint(0, CLASSES - 1, shape.targets)


CASES = [(task, name) for task in SHAPES for name in fitting(task) if name not in VALUES]


@pytest.mark.parametrize(("task", "name"), CASES)
def test_what_is_added_to_all_classes_of_a_place_is_not_seen(task, name):
    student, teacher, targets = drawn(task)
    plain = value(task, name, student, teacher, targets)
    of_place = 2 * torch.randn_like(student.select(SHAPES[task].axis, 0))
    shifted = student + of_place.unsqueeze(SHAPES[task].axis)
    assert value(task, name, shifted, teacher, targets) == pytest.approx(plain, rel=1e-3)
    others = student.roll(1, SHAPES[task].axis)
    assert value(task, name, others, teacher, targets) != pytest.approx(plain, rel=1e-3)


@pytest.mark.parametrize(("task", "name"), CASES)
def test_a_task_of_ones_own_that_is_made_from_another_is_compared_as_that_is(task, name):
    sides = drawn(task)
    assert value(task, name, *sides, own_name="my.py:Task") == value(task, name, *sides)


@pytest.mark.parametrize("name", fitting("segmentation"))
def test_maps_of_other_sizes_are_compared_as_logits_of_one(name):
    student, teacher, targets = drawn("segmentation")
    coarse = functional.interpolate(student, (2, 3), mode="bilinear")
    for sides in ((coarse, teacher), (student, coarse), (coarse, coarse.roll(1, 1))):
        found = value("segmentation", name, *sides, targets)
        assert found == pytest.approx(found)  # a number
        unknown = value("segmentation", name, *sides, targets[:0, 0, 0]) if name in BLIND else 1.0
        assert unknown > 0


BLIND = {"dist", "kd", "pixel_kd"}
"""Losses that read no labels, so that items may have none."""
