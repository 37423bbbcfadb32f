"""The teacher's head on the student's features, beside the same by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from kdeploy.data.own_function import attribute_of
from kdeploy.distill.config import DistillConfig
from kdeploy.distill.contract import Batch, TaskFacts
from kdeploy.distill.loss_specs import checked_weight, loss_specs_of
from kdeploy.distill.losses.crosskd import CrossKd
from kdeploy.distill.losses.detection_kd import DetectionKd
from kdeploy.distill.objective import DistillObjective
from kdeploy.distill.teacher import Teacher
from kdeploy.errors import ModelError
from kdeploy.tasks.detection import Detection

CLASSES = 3
MODELS = Path(__file__).parents[3] / "models"


class Tiny(nn.Module):
    """A detector of one stride: a tower, and a layer each for boxes and scores."""

    def __init__(self, width):
        super().__init__()
        self.tower = nn.Conv2d(2, width, 1)
        self.boxes, self.scores = nn.Conv2d(width, 4, 1), nn.Conv2d(width, CLASSES, 1)

    def forward(self, x):
        return self.head(self.tower(x))

    def head(self, maps):
        return {"boxes": nn.functional.softplus(self.boxes(maps)), "scores": self.scores(maps)}


@pytest.fixture
def case():
    """Return a teacher, a task that knows the size of items, and a batch."""
    torch.manual_seed(0)
    task = Detection()
    task._size = (4, 4)
    x = torch.randn(2, 2, 4, 4)
    return Tiny(6), task, Batch(x=x, labels=torch.zeros(2), rows=torch.arange(2))


def built(teacher, task, own, known, **options):
    facts = TaskFacts(
        num_classes=CLASSES,
        num_items=2,
        task=task,
        teacher_layers=("tower",),
        run_on=Teacher(teacher).run_on,
    )
    return CrossKd((own.shape,), (known.shape,), facts, **options)


def test_is_detection_kd_of_the_teachers_head_on_the_students_features(case):
    teacher, task, batch = case
    known = teacher.tower(batch.x).detach()
    own = torch.randn_like(known)
    axes = (0, 2, 3)
    one, other = (
        (z.mean(axes, True), z.std(axes, correction=0, keepdim=True)) for z in (own, known)
    )
    alike = (own - one[0]) / one[1] * other[1] + other[0]
    both = [task.distillable(teacher.head(maps)) for maps in (alike, known)]
    facts = TaskFacts(num_classes=CLASSES, num_items=2)
    expected = DetectionKd(*(z.shape for z in both), facts)(*both, batch)
    found = built(teacher, task, own, known)((own,), (known,), batch)
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)
    assert found.item() > 0.1


def test_the_teachers_own_features_leave_nothing_to_learn(case):
    teacher, task, batch = case
    known = teacher.tower(batch.x).detach()
    assert built(teacher, task, known, known)((known,), (known,), batch).item() < 1e-5


def test_features_learn_and_the_teacher_does_not(case):
    teacher, task, batch = case
    known = teacher.tower(batch.x).detach()
    own = torch.randn(2, 3, 4, 4, requires_grad=True)  # half as wide: through a projection
    loss = built(teacher, task, own, known)
    loss((own,), (known,), batch).backward()
    assert own.grad.abs().max() > 0
    assert loss.projections[0].weight.grad.abs().max() > 0
    assert all(p.grad is None and p.requires_grad for p in teacher.parameters())


def test_an_objective_runs_its_own_teacher_on_from_the_named_layers():
    torch.manual_seed(0)
    task = Detection()
    task._size, task._classes = (32, 32), ("a", "b", "c")
    detector = attribute_of("build.py:detector", MODELS / "detect_objects")
    student, teacher = (detector(width=w, depth=1, num_classes=CLASSES) for w in (4, 6))
    towers = {f"towers.{n}": f"towers.{n}" for n in range(2)}
    config = DistillConfig(losses=[{"crosskd": {"weight": 1.0, "layers": towers}}])
    boxes = torch.tensor([[[4.0, 4.0, 20.0, 20.0, 1.0]]]).repeat(2, 1, 1)
    batch = Batch(x=torch.randn(2, 3, 32, 32), labels=boxes, rows=torch.arange(2))
    objective = DistillObjective(
        student,
        Teacher(teacher),
        loss_specs_of(config.losses),
        label_weight=checked_weight(1.0, where="label_weight"),
        example=batch,
        facts=TaskFacts(num_classes=CLASSES, num_items=2, task=task),
    )
    parts = objective(batch)
    parts["crosskd"].backward()
    assert set(parts) == {"labels", "crosskd"}
    # The student's own head is left to the labels: the teacher reaches what lies before it.
    assert student.stem[0].weight.grad.abs().max() > 0
    assert all(layer.weight.grad is None for layer in (*student.boxes, *student.scores))
    assert all(p.grad is None for p in teacher.parameters())


def test_without_a_teacher_that_runs_on_it_is_refused():
    with pytest.raises(ModelError, match="runs the teacher on") as caught:
        CrossKd(((2, 3, 4, 4),), ((2, 3, 4, 4),), TaskFacts(num_classes=CLASSES, num_items=2))
    assert "detection_kd" in caught.value.hint
