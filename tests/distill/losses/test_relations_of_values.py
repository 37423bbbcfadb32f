"""Relations of values against numpy, and what they must not see."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdeploy.distill.contract import Batch, TaskFacts
from kdeploy.distill.losses.relations_of_values import RelationsOfValues
from kdeploy.errors import ModelError

GOLDEN = Path(__file__).parents[1] / "golden" / "relations_of_values.json"
FACTS = TaskFacts(num_classes=5, num_items=32)
IDS = torch.tensor([[5, 6, 7, 0], [5, 0, 0, 0], [5, 6, 7, 8]])


def values(seed, width, batch=3):
    random = np.random.RandomState(seed)
    return torch.from_numpy(random.standard_normal((batch, 4, width)).astype(np.float32))


def batch(x=IDS):
    return Batch(x=x, labels=torch.zeros(len(x), dtype=torch.int64), rows=torch.arange(len(x)))


def value(student, teacher, *, heads=2, **options):
    loss = RelationsOfValues(student.shape, teacher.shape, FACTS, heads=heads, **options)
    return loss(student, teacher, batch()).item()


def relations(features, heads):
    width = features.shape[-1] // heads
    found = []
    for head in range(heads):
        v = features[:, head * width : (head + 1) * width].astype(np.float64)
        e = np.exp(v @ v.T / np.sqrt(width))
        found.append(e / e.sum(1, keepdims=True))
    return np.stack(found)


def formula(student, teacher, heads, lengths=(4, 4, 4)):
    """Return the divergence of sequences cut to their real tokens, one after the other."""
    divergences = []
    for own, other, length in zip(student.numpy(), teacher.numpy(), lengths, strict=True):
        q, p = relations(own[:length], heads), relations(other[:length], heads)
        divergences.append((p * np.log(p / q)).sum(-1).mean(0))
    return np.concatenate(divergences).mean()


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_is_the_formula_for_other_widths(heads):
    student, teacher = values(0, 8), values(1, 12)
    expected = formula(student, teacher, heads)
    assert value(student, teacher, heads=heads) == pytest.approx(expected, rel=1e-4)


def test_sequences_with_padding_are_as_if_cut():
    student, teacher = values(0, 8), values(1, 12)
    expected = formula(student, teacher, 2, lengths=(3, 1, 4))
    assert value(student, teacher, padding=0) == pytest.approx(expected, rel=1e-4)


def test_does_not_see_what_padding_holds():
    student, teacher = values(0, 8), values(1, 12)
    before = value(student, teacher, padding=0)
    student[IDS == 0], teacher[IDS == 0] = 40.0, -40.0
    assert value(student, teacher, padding=0) == before


def test_a_sequence_of_padding_alone_stays_finite():
    student, teacher = values(0, 8).requires_grad_(), values(1, 12)
    loss = RelationsOfValues(student.shape, teacher.shape, FACTS, heads=2, padding=0)
    found = loss(student, teacher, batch(torch.zeros(3, 4, dtype=torch.int64)))
    found.backward()
    assert found.item() == 0
    assert student.grad.isfinite().all()


@given(seed=st.integers(0, 1000))
def test_does_not_see_orthogonal_maps_inside_heads(seed):
    student, teacher = values(0, 8), values(1, 12)
    generator = torch.Generator().manual_seed(seed)
    turned = [
        (v.reshape(3, 4, 2, -1) @ torch.linalg.qr(torch.randn(n, n, generator=generator))[0])
        for v, n in ((student, 4), (teacher, 6))
    ]
    found = value(*(t.reshape(3, 4, -1) for t in turned))
    assert found == pytest.approx(value(student, teacher), rel=1e-3)


@given(seed=st.integers(0, 1000))
def test_is_never_negative_and_zero_at_equal_values(seed):
    student = values(seed, 8)
    assert value(student, student) == 0
    assert value(student, values(seed + 1, 8)) > 0


def test_the_teacher_comes_first_in_the_divergence():
    student, teacher = values(0, 8), values(1, 8)
    assert value(student, teacher) != pytest.approx(value(teacher, student), rel=1e-2)


def test_keeps_its_value():
    random = np.random.RandomState(0)
    student, teacher = (
        torch.from_numpy(random.standard_normal((8, 4, 24)).astype(np.float32)) for _ in range(2)
    )
    loss = RelationsOfValues(student.shape, teacher.shape, FACTS)
    found = loss(student, teacher, batch(torch.zeros(8))).item()
    assert found == pytest.approx(json.loads(GOLDEN.read_text())["value"], rel=1e-5)


def test_refuses_heads_that_do_not_divide_and_lists_those_that_do():
    with pytest.raises(ModelError, match="the student's: 12 heads do not divide the width 8") as e:
        value(values(0, 8), values(1, 12), heads=12)
    assert e.value.hint == "`heads` divides both widths, 8 and 12: one of 1, 2, 4"
    with pytest.raises(ModelError, match="the teacher's: 8 heads do not divide the width 12"):
        value(values(0, 8), values(1, 12), heads=8)


def test_refuses_what_is_no_sequence_of_tokens():
    with pytest.raises(ModelError, match="relations_of_values compares features"):
        value(torch.randn(3, 8), torch.randn(3, 8))
