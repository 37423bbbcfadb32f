"""How tests call any loss: inputs of the shape that it needs, built and seeded where it is a class.

`example` is the same everywhere and always: `RandomState` keeps its stream for ever.
"""

from __future__ import annotations

import numpy as np
import torch

from kdeploy.distill.contract import Batch, TaskFacts

NUM_ITEMS = 32
IMAGE = (1, 32, 32)
SHAPES = {
    "logits": (8, 5),
    "features": (8, 6, 4, 4),
    "all_features": ((8, 6, 4, 4), (8, 6, 2, 2)),
}
TOKENS = {"features": (8, 4, 24), "all_features": ((8, 4, 24), (8, 4, 24))}
OF_TASKS = {
    "ctc": {"logits": (8, 7, 5)},
    "detection": {"logits": (8, 6, 4 + 5 + 4 * 3)},
    "keypoint_heatmaps": {"logits": (8, 3, 4, 4)},
    "segmentation": {"logits": (8, 5, 4, 6)},
}
"""By the first task that a loss is for, where its outputs are no vectors."""


def task_of(technique):
    """Return the first task that a loss is for; classification where it names none."""
    return (technique.facts.get("tasks") or ("classification",))[0]


def shape_of(technique):
    """Return the shape, or shapes, of what a loss compares."""
    known = TOKENS if technique.facts.get("tokens") else SHAPES
    known = known | OF_TASKS.get(task_of(technique), {})
    return known[technique.facts.get("needs", "logits")]


def example(technique):
    """Return the student's and the teacher's features (tensors, or tuples of them) and labels."""
    shapes, random = shape_of(technique), np.random.RandomState(0)
    student, teacher = (each(_normal(random), shapes) for _ in range(2))
    if task_of(technique) == "detection" and not isinstance(shapes[0], tuple) and len(shapes) == 3:
        for side in (student, teacher):  # corners of boxes
            side[..., 2:4] = side[..., :2] + side[..., 2:4].abs() + 1
    each(torch.Tensor.requires_grad_, student)
    return student, teacher, labels_of(task_of(technique))


def labels_of(task, items=8):
    """Return what the items of a task are labelled with."""
    random = np.random.RandomState(1)
    if task == "detection":
        corners = random.uniform(0, 20, (items, 3, 2))
        sides = random.uniform(4, 12, (items, 3, 2))
        classes = random.randint(-1, 4, (items, 3, 1))
        boxes = np.concatenate([corners, corners + sides, classes], axis=2)
        return torch.from_numpy(boxes.astype(np.float32))
    if task == "regression":
        return torch.from_numpy(random.standard_normal((items, 5)).astype(np.float32))
    if task == "segmentation":
        return torch.from_numpy(random.randint(0, 5, (items, 4, 6)))
    if task == "ctc":
        return torch.from_numpy(random.randint(1, 5, (items, 3)))
    return torch.arange(items) % 5


def called(technique, student, teacher, labels, *, places=None, **parameters):
    """Return the loss, with its defaults where nothing is given; a class is built anew."""
    torch.manual_seed(0)
    loss = technique.load()
    if not isinstance(loss, type):
        return loss(student, teacher, labels, **parameters)
    shapes = (each(lambda tensor: tensor.shape, side) for side in (student, teacher))
    layers = tuple(map(str, range(len(student)))) if isinstance(student, tuple) else ("0",)
    facts = TaskFacts(num_classes=5, num_items=NUM_ITEMS, teacher_layers=layers, run_on=detected)
    module = loss(*shapes, facts, **parameters)
    places = torch.arange(len(labels)) if places is None else places
    return module(student, teacher, Batch(torch.zeros(len(labels), *IMAGE), labels, places))


def detected(batch, features):
    """Stand in for a teacher's head: detections (batch, cells, 4 + 5) of maps of any sizes."""
    rows = torch.cat([maps.flatten(2) for maps in features.values()], 2).transpose(1, 2)
    weights = torch.from_numpy(np.random.RandomState(2).standard_normal((rows.shape[2], 9)))
    made = rows @ weights.to(rows)
    corner, sides = made[..., :2], torch.nn.functional.softplus(made[..., 2:4])
    return torch.cat([corner, corner + sides, made[..., 4:]], -1)


def each(function, values):
    """Return function(tensor or shape), or the tuple of it where there are several."""
    several = isinstance(values, tuple) and not isinstance(values[0], int)
    return tuple(map(function, values)) if several else function(values)


def gradients(student):
    """Return the gradients of one or all inputs, as one vector."""
    several = student if isinstance(student, tuple) else (student,)
    return torch.cat([tensor.grad.flatten() for tensor in several])


def _normal(random):
    return lambda shape: torch.from_numpy(random.standard_normal(shape).astype(np.float32))
