"""FSP against numpy, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdeploy.distill.losses.fsp import fsp
from kdeploy.errors import ModelError

GOLDEN = Path(__file__).parents[1] / "golden" / "fsp.json"
LABELS = torch.zeros(4, dtype=torch.int64)
SHAPES = ((3, 8, 8), (5, 4, 4), (5, 4, 4))


def maps(seed, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(4, *shape)).astype(np.float32) for shape in shapes]


def value(student, teacher):
    return fsp(*(tuple(map(torch.from_numpy, m)) for m in (student, teacher)), LABELS).item()


def gram(first, second):
    if first.shape[-1] != second.shape[-1]:
        first = first.reshape(4, first.shape[1], 4, 2, 4, 2).mean((3, 5))
    flat = [f.reshape(4, f.shape[1], -1) for f in (first, second)]
    return np.einsum("bip,bjp->bij", *flat) / flat[0].shape[-1]


def test_is_the_formula_with_the_larger_map_pooled():
    student, teacher = maps(0), maps(1)
    expected = sum(
        ((gram(*student[i : i + 2]) - gram(*teacher[i : i + 2])) ** 2).mean() for i in range(2)
    )
    assert value(student, teacher) == pytest.approx(expected, rel=1e-5)


def test_the_teacher_may_have_another_resolution():
    student = maps(0, ((3, 8, 8), (5, 4, 4)))
    teacher = [m.repeat(2, 2).repeat(2, 3) for m in student]
    assert value(student, teacher) == pytest.approx(0, abs=1e-12)


def test_signals_are_maps_too():
    student, teacher = maps(2, ((3, 9), (4, 9))), maps(3, ((3, 9), (4, 9)))
    grams = [np.einsum("bip,bjp->bij", *m) / 9 for m in (student, teacher)]
    assert value(student, teacher) == pytest.approx(((grams[0] - grams[1]) ** 2).mean(), rel=1e-5)


def test_is_zero_at_equal_maps():
    assert value(maps(0), maps(0)) == 0


@given(seed=st.integers(0, 1000))
def test_does_not_see_positions_shuffled_alike(seed):
    shapes = ((3, 4, 4), (5, 4, 4))
    student, teacher = maps(4, shapes), maps(5, shapes)
    order = np.random.default_rng(seed).permutation(16)
    moved = [m.reshape(4, -1, 16)[..., order].reshape(m.shape) for m in student]
    assert value(moved, teacher) == pytest.approx(value(student, teacher), rel=1e-4)


def test_keeps_its_value():
    random = np.random.RandomState(0)
    shapes = (8, 6, 4, 4), (8, 6, 2, 2)
    sides = [[random.standard_normal(s).astype(np.float32) for s in shapes] for _ in range(2)]
    expected = json.loads(GOLDEN.read_text())["value"]
    assert value(*sides) == pytest.approx(expected, rel=1e-5)


def test_refuses_other_widths_and_names_both():
    with pytest.raises(ModelError, match=r"student's has 5 channels, the teacher's 7") as caught:
        value(maps(0), maps(1, ((3, 8, 8), (7, 4, 4), (5, 4, 4))))
    assert "review" in caught.value.hint


def test_refuses_a_layer_without_neighbour():
    with pytest.raises(ModelError, match="fsp compares neighbouring layers, found 1") as caught:
        value(maps(0)[:1], maps(1)[:1])
    assert "two or more pairs" in caught.value.hint


@pytest.mark.parametrize(
    "shape", [(5,), (5, 4), (5, 4, 4, 4)], ids=["vectors", "signals", "videos"]
)
def test_refuses_what_is_no_map_of_the_same_kind(shape):
    shapes = ((5, 4, 4), shape)
    with pytest.raises(ModelError, match="fsp needs signals or images from all layers"):
        value(maps(0, shapes), maps(1, shapes))
