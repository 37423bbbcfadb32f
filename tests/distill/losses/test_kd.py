"""KD against numpy, and the identities that it must keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kdeploy.distill.losses.kd import kd

LOGITS = arrays(np.float32, (6, 5), elements=st.floats(-8, 8, width=32))
LABELS = torch.arange(6) % 5
TEMPERATURES = st.floats(0.5, 20)


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def formula(student, teacher, temperature, *, standardize=False):
    student, teacher = student.astype(np.float64), teacher.astype(np.float64)
    if standardize:
        student, teacher = (
            (z - z.mean(1, keepdims=True)) / (z.std(1, keepdims=True) + 1e-7)
            for z in (student, teacher)
        )
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    return temperature**2 * (p * np.log(p / q)).sum(1).mean()


def value(student, teacher, **options):
    return kd(torch.as_tensor(student), torch.as_tensor(teacher), LABELS, **options)


def gradient(student, teacher, **options):
    student = torch.as_tensor(student).clone().requires_grad_()
    value(student, teacher, **options).backward()
    return student.grad


def drawn(seed, classes=5, rows=6):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(rows, classes)).astype(np.float32) * 2 for _ in range(2))


@given(student=LOGITS, teacher=LOGITS, temperature=TEMPERATURES)
def test_is_the_formula(student, teacher, temperature):
    expected = formula(student, teacher, temperature)
    found = value(student, teacher, temperature=temperature).item()
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-4 * temperature**2)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_standardised_is_the_formula_of_the_population(temperature):
    student, teacher = drawn(0)
    expected = formula(student, teacher, temperature, standardize=True)
    found = value(student, teacher, temperature=temperature, standardize=True).item()
    assert found == pytest.approx(expected, rel=1e-5)


@given(logits=LOGITS, shift=st.floats(-5, 5), temperature=TEMPERATURES)
def test_is_zero_without_gradient_at_equal_logits_and_a_constant_more(logits, shift, temperature):
    moved = logits + np.float32(shift)
    assert value(logits, logits, temperature=temperature).item() == 0
    assert abs(value(moved, logits, temperature=temperature).item()) < 1e-5 * temperature**2
    assert gradient(moved, logits, temperature=temperature).abs().max() < 1e-6 * temperature


def test_the_number_of_classes_does_not_divide_it():
    # Classes that nobody believes in change nothing; a mean over classes would shrink.
    student, teacher = drawn(1)
    unlikely = np.full((6, 95), -60.0, np.float32)
    wide = value(np.hstack([student, unlikely]), np.hstack([teacher, unlikely]), temperature=1.0)
    assert wide.item() == pytest.approx(value(student, teacher, temperature=1.0).item(), rel=1e-5)


def test_is_the_mean_over_the_batch():
    student, teacher = drawn(2)
    rows = [value(student[i : i + 1], teacher[i : i + 1]).item() for i in range(6)]
    assert value(student, teacher).item() == pytest.approx(np.mean(rows), rel=1e-5)


def test_the_gradient_hardly_depends_on_a_high_temperature():
    student, teacher = (torch.from_numpy(z).double() for z in drawn(3))
    warm, hot = (gradient(student, teacher, temperature=t) for t in (50.0, 500.0))
    assert torch.allclose(warm, hot, rtol=0.1, atol=2e-3 * hot.abs().max().item() * 10)
    # Hinton's limit: (z_s - z_t) / (batch x classes), both centred.
    centred = [z - z.mean(1, keepdim=True) for z in (student, teacher)]
    assert torch.allclose(hot, (centred[0] - centred[1]) / 30, rtol=0.05, atol=1e-3)


@given(
    factors=st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)),
    shifts=st.tuples(st.floats(-5, 5), st.floats(-5, 5)),
)
def test_standardised_it_does_not_see_positive_affine_maps(factors, shifts):
    student, teacher = drawn(4)
    plain = value(student, teacher, temperature=2.0, standardize=True).item()
    mapped = (
        np.float32(a) * z + np.float32(b)
        for a, b, z in zip(factors, shifts, (student, teacher), strict=True)
    )
    assert value(*mapped, temperature=2.0, standardize=True).item() == pytest.approx(
        plain, rel=1e-3
    )


def test_standardised_logits_that_are_all_equal_stay_finite():
    flat, other = torch.zeros(6, 5), torch.from_numpy(next(drawn(5)))
    assert gradient(flat, other, standardize=True).isfinite().all()


def test_is_the_target_part_and_the_weighted_rest():
    # Zhao et al., CVPR 2022, equation 7: KD = TCKD + (1 - p_t) NCKD.
    student, teacher = (z.astype(np.float64) for z in drawn(6))
    p, q = softmax(teacher / 3), softmax(student / 3)
    rows, target = np.arange(6), LABELS.numpy()
    p_t, q_t = p[rows, target], q[rows, target]
    tckd = p_t * np.log(p_t / q_t) + (1 - p_t) * np.log((1 - p_t) / (1 - q_t))
    others = np.ones_like(p, dtype=bool)
    others[rows, target] = False
    p_o, q_o = ((d[others].reshape(6, 4) / (1 - t)[:, None]) for d, t in ((p, p_t), (q, q_t)))
    nckd = (p_o * np.log(p_o / q_o)).sum(1)
    expected = 9 * (tckd + (1 - p_t) * nckd).mean()
    assert value(student, teacher, temperature=3.0).item() == pytest.approx(expected, rel=1e-5)


def test_is_computed_in_float32_whatever_comes():
    student, teacher = (torch.from_numpy(z).bfloat16() for z in drawn(7))
    found = kd(student, teacher, LABELS)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(
        formula(student.float().numpy(), teacher.float().numpy(), 4.0), rel=1e-4
    )


def test_very_large_logits_stay_finite():
    student, teacher = (torch.from_numpy(z) * 1e4 for z in drawn(8))
    assert kd(student, teacher, LABELS, temperature=1.0).isfinite()
