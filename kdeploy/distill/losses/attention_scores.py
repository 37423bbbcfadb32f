"""Attention scores: look from token to token as the teacher's heads do.

TinyBERT: Jiao et al., Findings of EMNLP 2020, arXiv:1909.10351, equation 7: the scores before
the softmax. Attention layers do not return them, fused kernels do not even compute them; so they
are computed again from the outputs of the query and the key projections.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor, nn

from kdeploy.distill.contract import Batch, TaskFacts, loss
from kdeploy.distill.tokens import check_heads, check_tokens, mean_over, real_tokens, split_heads
from kdeploy.errors import ModelError

if TYPE_CHECKING:
    from pydantic import Field

HINT = "give `student_heads` and `teacher_heads` as the networks were built"


@loss(paper="arXiv:1909.10351", needs="all_features", tokens=True)
class AttentionScores(nn.Module):
    """Mean squared error of q k / sqrt(width of a head), summed over layers of attention.

    `layers` names the query and the key projection of a layer, then those of the next. Head i
    learns from head i, so both networks need as many.
    """

    def __init__(
        self,
        student: tuple[torch.Size, ...],
        teacher: tuple[torch.Size, ...],
        facts: TaskFacts,
        *,
        student_heads: Annotated[int, Field(gt=0)] = 12,
        teacher_heads: Annotated[int, Field(gt=0)] = 12,
        causal: bool = False,
        padding: Annotated[int, Field(ge=0)] | None = None,
    ) -> None:
        """Check that the projections and the heads fit each other.

        Args:
            student: Shapes (batch, tokens, width) of queries and keys in turn.
            teacher: As many shapes.
            facts: Not used.
            student_heads: Heads of the student's attention.
            teacher_heads: Heads of the teacher's attention, the same number.
            causal: Leave out scores of later tokens, which a language model does not use.
            padding: Id of the token that fills sequences up; scores from and to it do not count.
                null: all count.
        """
        super().__init__()
        del facts
        _check_counts(len(student), student_heads, teacher_heads)
        for own, other in zip(student, teacher, strict=True):
            check_tokens(own, other, where="attention_scores")
        for shapes, heads, role in (
            (student, student_heads, "the student's"),
            (teacher, teacher_heads, "the teacher's"),
        ):
            for query, key in zip(shapes[::2], shapes[1::2], strict=True):
                _check_widths(query[-1], key[-1], role)
                check_heads(query[-1], heads, where=f"attention_scores, {role}", hint=HINT)
        self.heads = student_heads
        self.causal = causal
        self.padding = padding

    def forward(
        self, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], batch: Batch
    ) -> Tensor:
        """Return the mean over heads and pairs of real tokens, summed over layers."""
        real = real_tokens(student[0], batch, self.padding)
        pairs = real[:, :, None] & real[:, None, :]  # (batch, tokens, tokens)
        pairs = pairs.tril() if self.causal else pairs
        losses = [
            mean_over((self._scores(*own) - self._scores(*other)).square().mean(1), pairs)
            for own, other in zip(_in_twos(student), _in_twos(teacher), strict=True)
        ]
        return torch.stack(losses).sum()

    def _scores(self, query: Tensor, key: Tensor) -> Tensor:
        """Return the scores (batch, heads, tokens, tokens)."""
        query, key = split_heads(query, self.heads), split_heads(key, self.heads)
        # By each network's own width of a head: where they differ the scores are comparable only
        # so.
        return query @ key.transpose(-1, -2) / sqrt(query.shape[-1])


def _in_twos(features: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(features[::2], features[1::2], strict=True))


def _check_counts(layers: int, student_heads: int, teacher_heads: int) -> None:
    if layers % 2:
        raise ModelError(
            f"attention_scores needs queries and keys in turn, found {layers} layers",
            hint="name the query and the key projection of each layer of attention, e.g. "
            '`layers: {"0.query": "0.query", "0.key": "0.key"}`',
        )
    if student_heads != teacher_heads:
        raise ModelError(
            f"attention_scores compares head with head: the student has {student_heads}, the "
            f"teacher {teacher_heads}",
            hint="use `relations_of_values`, which divides both into as many heads",
        )


def _check_widths(query: int, key: int, role: str) -> None:
    if query != key:
        raise ModelError(
            f"attention_scores: of {role} projections the query is {query} wide, the key {key}",
            hint="name the query and the key projection of one layer, in this order; for grouped "
            "queries use `relations_of_values`",
        )
