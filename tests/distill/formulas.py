"""What the formulas of losses share, in numpy and float64, and inputs to try them on."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

LOGITS = arrays(np.float32, (6, 5), elements=st.floats(-8, 8, width=32))
LABELS = torch.arange(6) % 5
ROWS = np.arange(6)


def softmax(logits, temperature=1.0):
    scaled = logits.astype(np.float64) / temperature
    e = np.exp(scaled - scaled.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def without_target(values):
    """Return the columns of the classes that are not the label's."""
    kept = np.ones(values.shape, dtype=bool)
    kept[ROWS, LABELS.numpy()] = False
    return values[kept].reshape(len(values), -1)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def drawn(seed, *shape):
    """Return a student's and a teacher's values."""
    random = np.random.default_rng(seed)
    return tuple((random.normal(size=shape) * 2).astype(np.float32) for _ in range(2))


def rotation(seed, size):
    """Return an orthogonal matrix."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0].astype(np.float32)


def value(loss, student, teacher, labels=LABELS, **options):
    return loss(torch.as_tensor(student), torch.as_tensor(teacher), labels, **options).item()


def gradient(loss, student, teacher, **options):
    student = torch.as_tensor(student).clone().requires_grad_()
    loss(student, torch.as_tensor(teacher), LABELS, **options).backward()
    return student.grad
