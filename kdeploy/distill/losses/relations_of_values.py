"""Relations of values: relate a token's values to the other tokens' as the teacher does.

MiniLM: Wang et al., NeurIPS 2020, arXiv:2002.10957, section 3.2; relation heads that need not be
those of attention: MiniLMv2, Wang et al. 2021, arXiv:2012.15828.
"""

from __future__ import annotations

from math import gcd, sqrt
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdeploy.distill.contract import Batch, TaskFacts, loss
from kdeploy.distill.tokens import check_heads, check_tokens, mean_over, real_tokens, split_heads

if TYPE_CHECKING:
    from pydantic import Field


@loss(paper="arXiv:2002.10957", needs="features", tokens=True)
class RelationsOfValues(nn.Module):
    """KL(teacher || student) of softmax(v v / sqrt(width of a head)), mean over heads and tokens.

    `layers` names the value projections, in the paper those of the last layers only. Widths and
    attention heads may differ; queries or keys in the place of the values are MiniLMv2's other
    relations.
    """

    def __init__(
        self,
        student: torch.Size,
        teacher: torch.Size,
        facts: TaskFacts,
        *,
        heads: Annotated[int, Field(gt=0)] = 12,
        padding: Annotated[int, Field(ge=0)] | None = None,
    ) -> None:
        """Check that the heads divide both widths.

        Args:
            student: Shape (batch, tokens, width).
            teacher: Shape with another width at most.
            facts: Not used.
            heads: Parts that both widths are cut into for the comparison; a common divisor.
            padding: Id of the token that fills sequences up; relations from and to it do not
                count. null: all count.
        """
        super().__init__()
        del facts
        check_tokens(student, teacher, where="relations_of_values")
        common = gcd(student[-1], teacher[-1])
        divisors = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
        hint = f"`heads` divides both widths, {student[-1]} and {teacher[-1]}: one of {divisors}"
        for shape, role in ((student, "the student's"), (teacher, "the teacher's")):
            check_heads(shape[-1], heads, where=f"relations_of_values, {role}", hint=hint)
        self.heads = heads
        self.padding = padding

    def forward(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """Return the mean over heads and real tokens."""
        real = real_tokens(student, batch, self.padding)
        own, other = self._relations(student, real), self._relations(teacher, real)
        divergences = functional.kl_div(own, other, reduction="none", log_target=True).sum(-1)
        # Rows of padding are left out here, its columns by the softmax.
        return mean_over(divergences.mean(1), real)

    def _relations(self, values: Tensor, real: Tensor) -> Tensor:
        """Return logarithms of the relations (batch, heads, tokens, tokens); 0 to padding."""
        values = split_heads(values, self.heads)
        scores = values @ values.transpose(-1, -2) / sqrt(values.shape[-1])
        # Not -inf: the difference of two such logarithms would not be a number.
        lowest = torch.finfo(scores.dtype).min
        return scores.masked_fill(~real[:, None, None, :], lowest).log_softmax(-1)
