"""DKD against numpy, and as the two halves of KD."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdeploy.distill.losses.dkd import dkd
from kdeploy.distill.losses.kd import kd
from kdeploy.errors import ModelError
from tests.distill.formulas import (
    LABELS,
    LOGITS,
    ROWS,
    drawn,
    gradient,
    softmax,
    value,
    without_target,
)

TEMPERATURES = st.floats(1, 20)


def formula(student, teacher, *, alpha=1.0, beta=8.0, temperature=4.0):
    q, p = (softmax(z, temperature) for z in (student, teacher))
    q_t, p_t = (d[ROWS, LABELS.numpy()] for d in (q, p))
    tckd = p_t * np.log(p_t / q_t) + (1 - p_t) * np.log((1 - p_t) / (1 - q_t))
    q_o, p_o = (d / d.sum(1, keepdims=True) for d in (without_target(q), without_target(p)))
    nckd = (p_o * np.log(p_o / q_o)).sum(1)
    return temperature**2 * (alpha * tckd + beta * nckd).mean()


@pytest.mark.parametrize(
    "options", [{}, {"alpha": 0.5, "beta": 2.0}, {"temperature": 1.0}, {"alpha": 0.0}]
)
def test_is_the_formula(options):
    student, teacher = drawn(0, 6, 5)
    expected = formula(student, teacher, **options)
    assert value(dkd, student, teacher, **options) == pytest.approx(expected, rel=1e-5)


@given(student=LOGITS, teacher=LOGITS, temperature=TEMPERATURES)
def test_kd_is_the_target_part_and_the_rest_times_what_the_target_leaves(
    student, teacher, temperature
):
    left = 1 - softmax(teacher, temperature)[ROWS, LABELS.numpy()]
    parts = [
        value(dkd, student[i : i + 1], teacher[i : i + 1], LABELS[i : i + 1], **options)
        for i in ROWS
        for options in [{"alpha": 1.0, "beta": left[i], "temperature": temperature}]
    ]
    whole = value(kd, student, teacher, temperature=temperature)
    assert np.mean(parts) == pytest.approx(whole, rel=1e-3, abs=1e-5 * temperature**2)


@given(logits=LOGITS, shift=st.floats(-5, 5), temperature=TEMPERATURES)
def test_is_zero_at_equal_logits_and_a_constant_more(logits, shift, temperature):
    moved = logits + np.float32(shift)
    assert abs(value(dkd, moved, logits, temperature=temperature)) < 1e-4 * temperature**2


def test_the_gradient_hardly_depends_on_a_high_temperature():
    student, teacher = (torch.from_numpy(z).double() for z in drawn(1, 6, 5))
    warm, hot = (gradient(dkd, student, teacher, temperature=t) for t in (50.0, 100.0))
    assert torch.allclose(warm, hot, rtol=0.1, atol=0.02 * hot.abs().max().item())


def test_a_target_that_is_nearly_certain_keeps_its_rest():
    # 1 - p is 0 in float32 where the target leads by 20; a sum in log space is exact.
    student, teacher = drawn(2, 6, 5)
    student[ROWS, LABELS] = 40.0
    found = value(dkd, student, teacher, beta=0.0, temperature=1.0)
    assert found == pytest.approx(formula_of_certain(student, teacher), rel=1e-4)


def formula_of_certain(student, teacher):
    p_t = softmax(teacher)[ROWS, LABELS.numpy()]
    log_rest = np.log(np.exp(without_target(student).astype(np.float64)).sum(1)) - 40.0
    return (p_t * np.log(p_t) + (1 - p_t) * (np.log(1 - p_t) - log_rest)).mean()


@pytest.mark.parametrize("classes", [1, 2])
def test_refuses_too_few_classes(classes):
    with pytest.raises(ModelError, match=f"found {classes} classes") as caught:
        value(dkd, *drawn(3, 6, classes))
    assert "use `kd`" in caught.value.hint


def test_refuses_mixed_labels():
    with pytest.raises(ModelError, match=r"labels of the shape \(6, 5\)"):
        value(dkd, *drawn(4, 6, 5), torch.rand(6, 5))
