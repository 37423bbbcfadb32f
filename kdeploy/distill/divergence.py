"""Divergence and cross-entropy of logits: summed over classes, mean over the batch, in log space.

Never the mean over classes: that divides the loss by their number, which is the most repeated bug
of distillation code (`nn.KLDivLoss()` does it by default).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def divergence(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return KL(teacher || student) of logits (batch, classes), both softened, a scalar.

    Args:
        student: Logits that learn.
        teacher: Logits that are learned from; constants, no gradient reaches them.
        temperature: Divides both; > 0. The caller multiplies by its square where gradients
            shall keep their size.
    """
    log_student = functional.log_softmax(student.float() / temperature, dim=1)
    log_teacher = functional.log_softmax(teacher.detach().float() / temperature, dim=1)
    return functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def cross_entropy(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return the divergence and the teacher's entropy: the same gradient, another zero.

    Args:
        student: Logits (batch, classes) that learn.
        teacher: Logits that are learned from; constants.
        temperature: Divides both; > 0.
    """
    probabilities = functional.softmax(teacher.detach().float() / temperature, dim=1)
    return functional.cross_entropy(student.float() / temperature, probabilities)
