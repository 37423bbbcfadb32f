"""Hidden states: regress what the teacher's layer says of each token.

TinyBERT: Jiao et al., Findings of EMNLP 2020, arXiv:1909.10351, equations 8 and 9.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor, nn

from kdeploy.distill.contract import Batch, TaskFacts, loss
from kdeploy.distill.tokens import mean_over, real_tokens
from kdeploy.errors import ModelError

if TYPE_CHECKING:
    from pydantic import Field


@loss(paper="arXiv:1909.10351", needs="features", tokens=True, exact=False)
class HiddenStates(nn.Module):
    """Mean squared error of the teacher's states and a linear map of the student's, per pair.

    The map is trained, without bias, one for each pair of layers (the authors' code shares one).
    Embeddings count as states: name their layer.
    """

    def __init__(
        self,
        student: torch.Size,
        teacher: torch.Size,
        facts: TaskFacts,
        *,
        padding: Annotated[int, Field(ge=0)] | None = None,
    ) -> None:
        """Build the map from the student's width to the teacher's.

        Args:
            student: Shape (batch, tokens, width) or (batch, width).
            teacher: Shape with another width at most.
            facts: Not used.
            padding: Id of the token that fills sequences up; its positions do not count. null:
                all count.
        """
        super().__init__()
        del facts
        if len(student) not in (2, 3) or student[1:-1] != teacher[1:-1]:
            raise ModelError(
                f"hidden_states compares (batch, tokens, width) or (batch, width), found "
                f"{tuple(student)} of the student and {tuple(teacher)} of the teacher",
                hint="name layers of the same kind on both sides; for feature maps of "
                "convolutions use `hints`",
            )
        self.padding = padding
        self.projection = nn.Linear(student[-1], teacher[-1], bias=False)

    def forward(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """Return the mean over widths and real tokens."""
        errors = (self.projection(student) - teacher).square().mean(-1)
        return mean_over(errors, real_tokens(student, batch, self.padding))
