"""DIST against numpy's correlation, and what it must not see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdeploy.distill.losses.dist import dist
from tests.distill.formulas import drawn, gradient, softmax, value


def formula(student, teacher, *, beta=1.0, gamma=1.0, temperature=4.0):
    q, p = (softmax(z, temperature) for z in (student, teacher))
    inter, intra = (
        1 - np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(own, other, strict=True)])
        for own, other in ((q, p), (q.T, p.T))
    )
    return temperature**2 * (beta * inter + gamma * intra)


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 1.0}, {"beta": 0.0}, {"gamma": 0.5, "beta": 2.0}]
)
def test_is_the_formula(options):
    student, teacher = drawn(0, 6, 5)
    expected = formula(student, teacher, **options)
    assert value(dist, student, teacher, **options) == pytest.approx(expected, rel=1e-5)


@given(
    factors=st.lists(st.floats(0.05, 1), min_size=6, max_size=6),
    others=st.lists(st.floats(0.05, 1), min_size=6, max_size=6),
)
def test_over_classes_it_does_not_see_affine_maps_of_an_item_s_probabilities(factors, others):
    options = {"gamma": 0.0, "temperature": 1.0}
    student, teacher = drawn(1, 6, 5)
    plain = value(dist, student, teacher, **options)
    mapped = value(dist, flattened(student, factors), flattened(teacher, others), **options)
    assert mapped == pytest.approx(plain, abs=1e-4)


def flattened(logits, factors):
    """Return logits of the probabilities, moved towards uniform ones: a * p + (1 - a) / classes."""
    factors = np.array(factors)[:, None]
    return np.log(factors * softmax(logits) + (1 - factors) / logits.shape[1]).astype(np.float32)


def test_over_the_batch_it_does_not_see_how_often_a_class_is_likely():
    student, teacher = drawn(2, 6, 5)
    q = softmax(student)
    # The student's first class moves affinely, the second takes up the difference.
    q[:, 1] += 0.5 * q[:, 0]
    q[:, 0] *= 0.5
    options = {"beta": 0.0, "temperature": 1.0}
    before, after = (
        [np.corrcoef(a, b)[0, 1] for a, b in zip(d.T, softmax(teacher).T, strict=True)]
        for d in (softmax(student), q)
    )
    assert after[0] == pytest.approx(before[0])
    found = value(dist, np.log(q).astype(np.float32), teacher, **options)
    assert found == pytest.approx(1 - np.mean(after), rel=1e-4)


@pytest.mark.parametrize("rows", [1, 6])
def test_a_student_that_knows_nothing_has_a_sane_gradient(rows):
    # A head that starts at 0: all probabilities are equal, but for the rounding of their mean.
    flat, teacher = torch.zeros(rows, 7), torch.from_numpy(drawn(3, rows, 7)[0])
    found = gradient(dist, flat, teacher)
    assert 0 < found.abs().max() < 10


def test_a_class_that_nobody_believes_in_stays_finite():
    student, teacher = drawn(4, 6, 5)
    student[:, 0] = teacher[:, 0] = -200.0
    assert gradient(dist, student, teacher, temperature=1.0).isfinite().all()


def plain(student, teacher, *, temperature):
    """Return the loss step by step, in whatever digits it is given."""
    p, q = ((z / temperature).softmax(1) for z in (student, teacher))
    total = 0.0
    for own, other in ((p, q), (p.T, q.T)):
        own, other = (v - v.mean(1, keepdim=True) for v in (own, other))
        total = total + 1 - torch.cosine_similarity(own, other, dim=1).mean()
    return temperature**2 * total


@pytest.mark.parametrize("shape", [(6, 5), (300, 3), (300, 40), (2, 9)])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_gradient_is_that_of_the_steps(shape, temperature):
    teacher = torch.from_numpy(drawn(5, *shape)[1])
    found, expected = (
        torch.from_numpy(drawn(5, *shape)[0]).double().requires_grad_() for _ in range(2)
    )
    dist(found, teacher, torch.empty(0), temperature=temperature).backward()
    plain(expected, teacher.double(), temperature=temperature).backward()
    difference = (found.grad - expected.grad).norm() / expected.grad.norm()
    assert difference < 1e-5


def test_it_takes_its_part_of_a_sum():
    student, teacher = (torch.from_numpy(z) for z in drawn(6, 6, 5))
    alone = gradient(dist, student, teacher)
    own = student.clone().requires_grad_()
    (3 * dist(own, teacher, torch.empty(0)) + own.sum()).backward()
    torch.testing.assert_close(own.grad, 3 * alone + 1)
