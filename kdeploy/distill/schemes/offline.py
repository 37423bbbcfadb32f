"""One trained teacher, asked live on the student's own batches, teaches one student.

Hinton, Vinyals, Dean 2015, arXiv:1503.02531; the teacher sees the very crop that the student sees,
as Beyer et al., CVPR 2022, arXiv:2106.05237, find best.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from kdeploy.distill.contract import MakeObjective, SchemeContext, scheme


@scheme(paper="arXiv:1503.02531")
def offline(
    students: Sequence[nn.Module],
    teachers: Sequence[nn.Module],
    objective: MakeObjective,
    context: SchemeContext,
) -> nn.Module:
    """Return the student, trained.

    Args:
        students: One.
        teachers: One.
        objective: Makes what the student learns.
        context: Trains it.
    """
    (student,), (teacher,) = students, teachers
    context.train(objective(student, teacher))
    return student
