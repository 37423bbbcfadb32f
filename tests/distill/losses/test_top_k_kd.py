"""A coarse divergence: at most the full one, growing with k, exact from what a cache keeps."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdeploy.distill.divergence import divergence
from kdeploy.distill.losses.top_k_kd import top_k_kd
from kdeploy.distill.teacher_cache import CacheLayout, KeptLogits

LABELS = torch.zeros(6, dtype=torch.int64)
CLASSES = 40


def logits(seed, scale=3.0):
    return torch.randn(6, CLASSES, generator=torch.Generator().manual_seed(seed)) * scale


def test_is_the_divergence_of_what_is_left_after_adding_up():
    student, teacher = logits(1), logits(2)
    q, p = (x.double().softmax(-1).numpy() for x in (student, teacher))
    total = 0.0
    for own, other in zip(q, p, strict=True):
        top = np.argsort(other)[-5:]
        ours = np.append(own[top], 1 - own[top].sum())
        theirs = np.append(other[top], 1 - other[top].sum())
        total += (theirs * np.log(theirs / ours)).sum()
    assert float(top_k_kd(student, teacher, LABELS, k=5)) == pytest.approx(total / 6, rel=1e-4)


@given(seed=st.integers(0, 99), scale=st.floats(0.1, 20))
def test_grows_with_k_up_to_the_full_divergence(seed, scale):
    student, teacher = logits(seed, scale), logits(seed + 1, scale)
    full = float(divergence(student, teacher))
    values = [float(top_k_kd(student, teacher, LABELS, k=k)) for k in (1, 2, 5, 20, 39, 40, 99)]
    assert all(a <= b + 1e-5 * (1 + full) for a, b in pairwise(values))
    assert values[-1] == pytest.approx(full, rel=1e-5, abs=1e-6)
    assert values[-3] == pytest.approx(full, rel=1e-4, abs=1e-5)  # the bucket is one class


def test_kept_answers_give_what_the_whole_ones_give():
    student, teacher = logits(3), logits(4).half().float()
    layout = CacheLayout((CLASSES,), KeptLogits(top_k=8))
    kept = layout.unpacked(layout.packed(teacher), torch.device("cpu"))
    for k in (3, 8):
        found, whole = (float(top_k_kd(student, t, LABELS, k=k)) for t in (kept, teacher))
        assert found == pytest.approx(whole, rel=2e-3)
    assert 2 * layout.width == 2 * (3 * 8 + 1)  # bytes a token


def test_no_gradient_tells_classes_of_the_bucket_apart():
    student, teacher = logits(5).requires_grad_(), logits(6)
    top_k_kd(student, teacher, LABELS, k=4).backward()
    others = torch.ones_like(teacher).scatter(1, teacher.topk(4).indices, 0.0).bool()
    assert student.grad is not None
    for gradient, chances, is_other in zip(
        student.grad, student.detach().softmax(-1), others, strict=True
    ):
        ratio = gradient[is_other] / chances[is_other]  # the same pull on the whole bucket
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=1e-6)
