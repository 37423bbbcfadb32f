"""Soft targets only: the student learns from what the teacher says, also of items nobody labelled.

Chen et al., NeurIPS 2020, arXiv:2006.10029, distil a teacher that saw few labels into a student
that sees many items and none of their labels.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from kdeploy.data.further_items import with_unlabelled
from kdeploy.distill.contract import MakeObjective, SchemeContext, scheme

logger = logging.getLogger(__name__)


@scheme(paper="arXiv:2006.10029", further_items="extra", reads_labels=False)
def unlabelled(
    students: Sequence[nn.Module],
    teachers: Sequence[nn.Module],
    objective: MakeObjective,
    context: SchemeContext,
    *,
    extra: Path | None = None,
) -> nn.Module:
    """Return the student, trained without reading a label.

    Args:
        students: One.
        teachers: One.
        objective: Makes what the student learns; its losses need no labels.
        context: Trains the student on the enlarged training part.
        extra: Items for the training part: a folder of images at any depth, decoded as the
            data's are, or a .npy, or a .npz with `x`, of the data's item shape and type.
    """
    (student,), (teacher,) = students, teachers
    if any(context.label_weight.values()) and context.data.train.is_labelled:
        logger.warning("the scheme `unlabelled` takes `label_weight` as 0: labels are not read")
    data = context.data
    if extra is not None:
        data = with_unlabelled(data, extra)
        for note in data.notes[len(context.data.notes) :]:
            logger.warning("%s", note)
        logger.info(
            "%d items of the training part, %d more without labels",
            len(context.data.train),
            len(data.train) - len(context.data.train),
        )
    replace(context, data=data).train(objective.without_labels(data)(student, teacher))
    return student
