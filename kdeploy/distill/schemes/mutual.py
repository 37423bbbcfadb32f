"""Deep mutual learning: students teach each other while they learn, without a teacher.

Zhang et al., CVPR 2018, arXiv:1706.00384.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor, nn

from kdeploy.distill.contract import AuxiliaryModel, Batch, MakeObjective, SchemeContext, scheme
from kdeploy.distill.divergence import divergence
from kdeploy.distill.reinitialize import fresh_copy
from kdeploy.distill.tokens import real_rows
from kdeploy.tasks.contract import Task, classification, task_of
from kdeploy.training.compilation import CompiledCall
from kdeploy.training.views import View

if TYPE_CHECKING:
    from pydantic import Field

logger = logging.getLogger(__name__)


@scheme(
    paper="arXiv:1706.00384",
    tasks=("classification", "tokens", "language_modeling", "segmentation"),
    without=("lora", "checkpoint_activations", "fully_shard"),
)
def mutual(
    students: Sequence[nn.Module],
    teachers: Sequence[nn.Module],
    objective: MakeObjective,
    context: SchemeContext,
    *,
    peers: tuple[AuxiliaryModel, ...] = (),
    temperature: Annotated[float, Field(gt=0)] = 1.0,
    weight: Annotated[float, Field(gt=0)] = 1.0,
) -> nn.Module:
    """Return the recipe's student, trained with its peers.

    Args:
        students: The first is returned.
        teachers: Do not teach.
        objective: Not used: what is learned is part of the scheme.
        context: Builds the peers and trains all at once.
        peers: Learn beside the student, of any architecture; left out, one of the same build.
        temperature: Softens what students tell each other; > 0, no unit.
        weight: Of the mean divergence from the peers; that of the labels is 1, as in the paper.
    """
    del teachers, objective
    logger.warning(
        "the scheme `mutual` learns from labels and peers: the teacher, `losses` and "
        "`label_weight` have no effect"
    )
    beside = [context.model(entry, place, learns=True) for place, entry in enumerate(peers)]
    if not peers and len(students) == 1:
        beside = [fresh_copy(students[0], context.seed_of(0))]
    everyone = [*students, *beside]
    context.train(
        MutualObjective(
            everyone, temperature=temperature, weight=weight, task=task_of(context.data)
        )
    )
    for place, peer in enumerate(everyone[1:]):
        context.record(f"peers[{place}]", peer)
    return students[0]


class MutualObjective(nn.Module):
    """All students at once: each learns the labels, and what the others say now.

    L_i = CE_i + weight * T**2 / (M - 1) * sum over j != i of KL(p_j || p_i), where what the others
    say is a constant. All learn in one step from one forward pass each.

    Args:
        students: Two or more; the first decides which epoch is kept.
        temperature: T.
        weight: Of the divergence.
        task: What outputs mean; None: classes.
    """

    may_be_zero: frozenset[str] = frozenset()

    def __init__(
        self,
        students: Sequence[nn.Module],
        *,
        temperature: float,
        weight: float,
        task: Task | None = None,
    ) -> None:
        super().__init__()
        self.task = task or classification()
        self.student = students[0]
        self.peers = nn.ModuleList(students[1:])
        self.temperature, self.weight = temperature, weight
        self.fingerprint = f"mutual, temperature {temperature}, weight {weight}"
        self._calls = [CompiledCall(student) for student in students]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return each student's two components, the first student's as `labels` and `mutual`."""
        logits = [call(batch.x).float() for call in self._calls]
        components = {}
        for place, own in enumerate(logits):
            name = f"peers[{place - 1}]." if place else ""
            others = [other for other in logits if other is not own]
            components[f"{name}labels"] = self.task.label_loss(own, batch.labels)
            pairs = [self.task.rows(one, batch.labels) for one in (own, *others)]
            rows = [real_rows(one, labels) for one, labels in pairs]
            components[f"{name}mutual"] = self.weight * self._divergence(rows[0], rows[1:])
        return components

    def prepare(self, view: View) -> None: ...

    def compile_parts(self) -> None:
        for call in self._calls:
            call.compile()

    def validated(self, accuracy: float) -> None: ...

    def _divergence(self, own: Tensor, others: Sequence[Tensor]) -> Tensor:
        values = [divergence(own, other, temperature=self.temperature) for other in others]
        return self.temperature**2 * torch.stack(values).mean()
