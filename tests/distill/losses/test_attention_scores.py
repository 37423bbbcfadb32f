"""Attention scores against numpy, and what padding and later tokens must not do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from kdeploy.distill.contract import Batch, TaskFacts
from kdeploy.distill.losses.attention_scores import AttentionScores
from kdeploy.errors import ModelError

GOLDEN = Path(__file__).parents[1] / "golden" / "attention_scores.json"
FACTS = TaskFacts(num_classes=5, num_items=32)
IDS = torch.tensor([[5, 6, 7, 0], [5, 0, 0, 0], [5, 6, 7, 8]])
REAL = (IDS != 0).numpy()
HEADS = {"student_heads": 2, "teacher_heads": 2}


def projections(seed, width, count=2, batch=3, tokens=4):
    random = np.random.RandomState(seed)
    shape = (batch, tokens, width)
    return tuple(
        torch.from_numpy(random.standard_normal(shape).astype(np.float32)) for _ in range(count)
    )


def batch(x=IDS):
    return Batch(x=x, labels=torch.zeros(len(x), dtype=torch.int64), rows=torch.arange(len(x)))


def built(student, teacher, **options):
    shapes = (tuple(f.shape for f in side) for side in (student, teacher))
    return AttentionScores(*shapes, FACTS, **(HEADS | options))


def value(student, teacher, **options):
    return built(student, teacher, **options)(student, teacher, batch()).item()


def scores(query, key, heads=2):
    width = query.shape[-1] // heads
    return np.stack(
        [
            query.numpy()[..., h * width : (h + 1) * width]
            @ key.numpy()[..., h * width : (h + 1) * width].swapaxes(1, 2)
            / np.sqrt(width)
            for h in range(heads)
        ],
        1,
    )


def formula(student, teacher, counts=None):
    counts = np.ones((3, 4, 4), bool) if counts is None else counts
    errors = (scores(*student) - scores(*teacher)) ** 2
    return np.mean([errors[:, head][counts].mean() for head in range(2)])


def test_is_the_formula_for_other_widths():
    student, teacher = projections(0, 6), projections(1, 8)
    assert value(student, teacher) == pytest.approx(formula(student, teacher), rel=1e-5)


def test_is_the_sum_over_layers():
    student, teacher = projections(0, 6, count=4), projections(1, 8, count=4)
    expected = formula(student[:2], teacher[:2]) + formula(student[2:], teacher[2:])
    assert value(student, teacher) == pytest.approx(expected, rel=1e-5)


def test_is_the_mean_over_pairs_of_real_tokens():
    student, teacher = projections(0, 6), projections(1, 8)
    expected = formula(student, teacher, REAL[:, :, None] & REAL[:, None, :])
    assert value(student, teacher, padding=0) == pytest.approx(expected, rel=1e-5)


def test_later_tokens_do_not_count_in_a_language_model():
    student, teacher = projections(0, 6), projections(1, 8)
    counts = np.broadcast_to(np.tril(np.ones((4, 4), bool)), (3, 4, 4))
    expected = formula(student, teacher, counts)
    assert value(student, teacher, causal=True) == pytest.approx(expected, rel=1e-5)


def test_does_not_see_what_padding_holds():
    student, teacher = projections(0, 6), projections(1, 8)
    before = value(student, teacher, padding=0)
    for features in (*student, *teacher):
        features[IDS == 0] = torch.randn(4, features.shape[-1]) * 1e3
    assert value(student, teacher, padding=0) == before


def test_queries_and_keys_may_turn_together():
    # Scores are products: an orthogonal map of both inside a head changes none.
    student, teacher = projections(0, 6), projections(1, 8)
    turn = torch.linalg.qr(torch.randn(3, 3))[0]
    turned = tuple((f.reshape(3, 4, 2, 3) @ turn).reshape(3, 4, 6) for f in student)
    assert value(turned, teacher) == pytest.approx(value(student, teacher), rel=1e-4)


def test_is_zero_at_equal_projections():
    student = projections(0, 6)
    assert value(student, student) == 0


def test_keeps_its_value():
    both = projections(0, 24, count=4, batch=8)
    loss = built(both[:2], both[2:], student_heads=12, teacher_heads=12)
    found = loss(both[:2], both[2:], batch(torch.zeros(8))).item()
    assert found == pytest.approx(json.loads(GOLDEN.read_text())["value"], rel=1e-5)


def test_refuses_other_numbers_of_heads_and_points_to_relations():
    student, teacher = projections(0, 6), projections(1, 8)
    with pytest.raises(ModelError, match="the student has 2, the teacher 4") as caught:
        value(student, teacher, teacher_heads=4)
    assert "relations_of_values" in caught.value.hint


def test_refuses_heads_that_do_not_divide():
    both = {"student_heads": 4, "teacher_heads": 4}
    with pytest.raises(ModelError, match=r"the student's: 4 heads do not divide the width 6"):
        value(projections(0, 6), projections(1, 8), **both)
    with pytest.raises(ModelError, match=r"the teacher's: 4 heads do not divide the width 6"):
        value(projections(0, 8), projections(1, 6), **both)


def test_refuses_a_query_without_its_key():
    with pytest.raises(ModelError, match="queries and keys in turn, found 3 layers"):
        value(projections(0, 6, count=3), projections(1, 8, count=3))


def test_refuses_a_query_and_a_key_of_other_widths():
    student = (*projections(0, 6, count=1), *projections(0, 2, count=1))
    with pytest.raises(ModelError, match="the query is 6 wide, the key 2") as caught:
        value(student, projections(1, 8))
    assert "grouped queries" in caught.value.hint


def test_refuses_what_is_no_sequence_of_tokens():
    with pytest.raises(ModelError, match=r"attention_scores compares features \(batch, tokens"):
        value(tuple(torch.randn(3, 6) for _ in range(2)), projections(1, 8))
