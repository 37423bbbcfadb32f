"""Knowledge review against its formulas, built from the module's own weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from kdeploy.distill.contract import Batch, TaskFacts
from kdeploy.distill.losses.review import Review, hierarchical_context
from kdeploy.errors import ModelError

GOLDEN = Path(__file__).parents[1] / "golden" / "review.json"
FACTS = TaskFacts(num_classes=5, num_items=32)
STUDENT = ((4, 3, 8, 8), (4, 6, 4, 4), (4, 7, 2, 2))
TEACHER = ((4, 5, 16, 16), (4, 6, 8, 8), (4, 9, 2, 2))


def maps(seed, shapes):
    random = np.random.RandomState(seed)
    return tuple(torch.from_numpy(random.standard_normal(s).astype(np.float32)) for s in shapes)


def built(student=STUDENT, teacher=TEACHER, **options):
    shapes = (tuple(map(torch.Size, side)) for side in (student, teacher))
    return Review(*shapes, FACTS, **options)


def batch(size=4):
    labels = torch.arange(size) % 5
    return Batch(x=torch.zeros(size), labels=labels, rows=torch.arange(size))


def context(student, teacher):
    """Return the hierarchical context loss of square maps whose size is a power of two."""
    total, weights, weight = 0.0, 0.0, 1.0
    size = student.shape[-1]
    for pooled in [size] + [s for s in (4, 2, 1) if s < size]:
        step = size // pooled
        own, other = (
            f.reshape(*f.shape[:2], pooled, step, pooled, step).mean((3, 5))
            for f in (student, teacher)
        )
        total, weights = total + weight * ((own - other) ** 2).mean(), weights + weight
        weight /= 2
    return total / weights


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
def test_the_context_is_the_weighted_mean_over_sizes(size):
    student, teacher = (m.numpy() for m in maps(0, [(4, 3, size, size)] * 2))
    found = hierarchical_context(*map(torch.from_numpy, (student, teacher))).item()
    assert found == pytest.approx(context(student, teacher), rel=1e-5)


def test_the_context_sees_the_mean_more_than_noise_of_the_same_size():
    zero, noise = torch.zeros(4, 3, 8, 8), maps(1, [(4, 3, 8, 8)])[0].sign()
    assert hierarchical_context(torch.ones(4, 3, 8, 8), zero).item() == 1
    assert hierarchical_context(noise, zero).item() < 0.6


def normed(convolved):
    mean, variance = convolved.mean((0, 2, 3)), convolved.var((0, 2, 3), correction=0)
    view = (1, -1, 1, 1)
    return (convolved - mean.reshape(view)) / (variance.reshape(view) + 1e-5).sqrt()


def repeated(f, size):
    return f.repeat_interleave(size // f.shape[-1], 2).repeat_interleave(size // f.shape[-1], 3)


def test_is_the_fusion_from_deep_to_shallow():
    review, student, teacher = built(), maps(2, STUDENT), maps(3, TEACHER)
    found = review(student, teacher, batch()).item()
    total, below = 0.0, None
    for fusion, own, other in list(zip(review.fusions, student, teacher, strict=True))[::-1]:
        mixed = normed(torch.einsum("bchw,oc->bohw", own, fusion.enter[0].weight[:, :, 0, 0]))
        if below is not None:
            below = repeated(below, own.shape[-1])
            pair = torch.cat([mixed, below], 1)
            logits = torch.einsum("bchw,oc->bohw", pair, fusion.weigh.weight[:, :, 0, 0])
            gates = 1 / (1 + torch.exp(-logits - fusion.weigh.bias.reshape(1, 2, 1, 1)))
            mixed = gates[:, :1] * mixed + gates[:, 1:] * below
        below = repeated(mixed, other.shape[-1])
        learned = normed(functional.conv2d(below, fusion.leave[0].weight, padding=1))
        total += context(learned.detach().numpy(), other.numpy())
    assert found == pytest.approx(total, rel=1e-4)


def test_the_shallowest_loss_teaches_the_deepest_stage():
    review, student = built(), maps(2, STUDENT)
    deepest = student[-1].requires_grad_()
    # What only the shallowest stage learns, as the difference of two teachers.
    review.eval()
    teacher, other = maps(3, TEACHER), maps(3, TEACHER)
    other[0].zero_()
    values = [review(student, knows, batch()) for knows in (teacher, other)]
    (gradient,) = torch.autograd.grad(values[0] - values[1], deepest)
    assert gradient.abs().max() > 0


def test_every_weight_learns():
    review = built()
    review(maps(2, STUDENT), maps(3, TEACHER), batch()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in review.parameters())


def test_carries_no_more_than_the_deepest_stage_or_the_width():
    assert built().fusions[0].enter[0].out_channels == 7
    assert built(width=5).fusions[0].enter[0].out_channels == 5


def test_pooled_vectors_are_maps_of_one_position():
    student, teacher = (*STUDENT, (4, 7)), (*TEACHER, (4, 9))
    as_vectors = built(student, teacher).eval()
    as_maps = built((*STUDENT, (4, 7, 1, 1)), (*TEACHER, (4, 9, 1, 1))).eval()
    as_maps.load_state_dict(as_vectors.state_dict())
    own, other = maps(4, student), maps(5, teacher)
    found = as_vectors(own, other, batch())
    spread = ((*side[:-1], side[-1][:, :, None, None]) for side in (own, other))
    assert torch.equal(found, as_maps(*spread, batch()))


def test_sizes_need_not_divide_each_other_nor_be_square():
    student = ((4, 3, 7, 9), (4, 6, 3, 4))
    teacher = ((4, 5, 10, 6), (4, 9, 5, 5))
    assert built(student, teacher)(maps(6, student), maps(7, teacher), batch()).isfinite()


def test_keeps_its_value():
    shapes = ((8, 6, 4, 4), (8, 6, 2, 2))
    both = maps(0, shapes * 2)
    torch.manual_seed(0)
    found = built(shapes, shapes)(both[:2], both[2:], batch(8)).item()
    assert found == pytest.approx(json.loads(GOLDEN.read_text())["value"], rel=1e-4)


def test_refuses_signals():
    with pytest.raises(ModelError, match=r"review compares images .* found the shape \(4, 3, 8\)"):
        built(((4, 3, 8),), ((4, 3, 8),))
