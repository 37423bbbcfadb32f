"""How tests call any loss: inputs of the shape that it needs, built and seeded where it is a class.

`example` is the same everywhere and always: `RandomState` keeps its stream for ever.
"""

from __future__ import annotations

import numpy as np
import torch

from kdeploy.distill.contract import Batch, TaskFacts

NUM_ITEMS = 32
SHAPES = {
    "logits": (8, 5),
    "features": (8, 6, 4, 4),
    "all_features": ((8, 6, 4, 4), (8, 6, 2, 2)),
}
TOKENS = {"features": (8, 4, 24), "all_features": ((8, 4, 24), (8, 4, 24))}


def example(technique):
    """Return the student's and the teacher's features (tensors, or tuples of them) and labels."""
    known = TOKENS if technique.facts.get("tokens") else SHAPES
    shapes, random = known[technique.facts.get("needs", "logits")], np.random.RandomState(0)
    student, teacher = (each(_normal(random), shapes) for _ in range(2))
    each(torch.Tensor.requires_grad_, student)
    return student, teacher, torch.arange(8) % 5


def called(technique, student, teacher, labels, *, places=None, **parameters):
    """Return the loss, with its defaults where nothing is given; a class is built anew."""
    torch.manual_seed(0)
    loss = technique.load()
    if not isinstance(loss, type):
        return loss(student, teacher, labels, **parameters)
    shapes = (each(lambda tensor: tensor.shape, side) for side in (student, teacher))
    module = loss(*shapes, TaskFacts(num_classes=5, num_items=NUM_ITEMS), **parameters)
    places = torch.arange(len(labels)) if places is None else places
    return module(student, teacher, Batch(torch.zeros(len(labels)), labels, places))


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
