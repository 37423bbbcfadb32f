"""Divergence and cross-entropy of logits: summed over classes, mean over the batch, in log space.

Never the mean over classes: that divides the loss by their number, which is the most repeated bug
of distillation code (`nn.KLDivLoss()` does it by default).
"""

from __future__ import annotations

from math import log, log1p

import torch
from torch import Tensor
from torch.nn import functional

from kdeploy.distill.logits import log_probabilities, probabilities


def divergence(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return KL(teacher || student) of logits (batch, classes), both softened, a scalar.

    Args:
        student: Logits that learn.
        teacher: Logits that are learned from; constants, no gradient reaches them.
        temperature: Divides both; > 0. The caller multiplies by its square where gradients
            shall keep their size.
    """
    log_student = log_probabilities(student, temperature=temperature)
    log_teacher = log_probabilities(teacher.detach(), temperature=temperature)
    return functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def skewed(student: Tensor, teacher: Tensor, *, alpha: float, reverse: bool = False) -> Tensor:
    """Return the divergence of logits (rows, classes) from a mixture of both, mean over rows.

    Args:
        student: Logits that learn.
        teacher: Constants.
        alpha: Share, 0 to 1, of what is compared in what it is compared with.
        reverse: The student is compared, else the teacher.
    """
    own, other = log_probabilities(student), log_probabilities(teacher.detach())
    known, learning = (own, other) if reverse else (other, own)
    return log_divergence(known, log_mixture(known, learning, share=alpha))


def log_mixture(one: Tensor, other: Tensor, *, share: float) -> Tensor:
    """Return the logarithm of share * one + (1 - share) * other, of logarithms.

    In log space: a probability that is 0 in float32 keeps its logarithm.
    """
    if share in (0, 1):
        return one if share else other
    return torch.logaddexp(one + log(share), other + log1p(-share))


def log_divergence(known: Tensor, learning: Tensor) -> Tensor:
    """Return KL(known || learning) of logarithms (rows, classes), mean over rows; 0 of no rows."""
    total = functional.kl_div(learning, known, reduction="sum", log_target=True)
    return total / max(len(known), 1)


def cross_entropy(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return the divergence and the teacher's entropy: the same gradient, another zero.

    Args:
        student: Logits (batch, classes) that learn.
        teacher: Logits that are learned from; constants.
        temperature: Divides both; > 0.
    """
    expected = probabilities(teacher.detach(), temperature=temperature)
    learned = log_probabilities(student, temperature=temperature)
    return -(expected * learned).sum() / len(student)
