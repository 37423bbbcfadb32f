"""Logits taken apart against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import zscore

from kdeploy.distill.logits import (
    log_probabilities,
    others,
    probabilities,
    standardized,
    target_or_not,
)

LABELS = torch.tensor([0, 2, 4, 1])


def test_standardised_logits_are_z_scores():
    student, teacher = torch.randn(4, 5) * 3 + 1, torch.randn(4, 5)
    for found, logits in zip(standardized(student, teacher), (student, teacher), strict=True):
        assert np.allclose(found, zscore(logits.numpy(), axis=1), atol=1e-5)


def test_bfloat16_is_standardised_in_float32():
    (found,) = standardized(torch.randn(4, 5).bfloat16())
    assert found.dtype == torch.float32


def test_the_target_and_the_rest_are_two_logits():
    logits = torch.randn(4, 5)
    p = softmax(logits.numpy(), axis=1)[range(4), LABELS]
    found = target_or_not(logits, LABELS).softmax(1)
    assert np.allclose(found, np.stack([p, 1 - p], axis=1), atol=1e-6)


@pytest.mark.parametrize("lead", [80.0, -80.0])
def test_the_rest_is_exact_where_float32_would_round_it_away(lead):
    logits = torch.zeros(4, 5)
    logits[range(4), LABELS] = lead
    target, rest = target_or_not(logits, LABELS).log_softmax(1)[0].double().numpy()
    assert target - rest == pytest.approx(lead - np.log(4))


def test_the_others_keep_their_order():
    logits = torch.arange(20.0).reshape(4, 5)
    assert others(logits, LABELS).tolist() == [
        [1, 2, 3, 4],
        [5, 6, 8, 9],
        [10, 11, 12, 13],
        [15, 17, 18, 19],
    ]


@pytest.mark.parametrize("shape", [(4, 5), (300, 2), (300, 11), (300, 16), (300, 40)])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_many_rows_of_few_classes_are_computed_as_others_are(shape, temperature):
    logits = torch.randn(shape)
    expected = softmax(logits.double().numpy() / temperature, axis=1)
    assert np.allclose(probabilities(logits, temperature=temperature), expected, atol=1e-6)
    logs = log_probabilities(logits.bfloat16(), temperature=temperature)
    assert logs.dtype == torch.float32
    assert np.allclose(logs.exp(), expected, atol=0.02)


def test_the_layout_of_many_rows_reaches_no_gradient():
    some = torch.randn(300, 11, requires_grad=True)
    weight = torch.randn(300, 11)
    (log_probabilities(some) * weight).sum().backward()
    found, some.grad = some.grad, None
    (some.log_softmax(1) * weight).sum().backward()
    torch.testing.assert_close(found, some.grad)
