"""Contrastive representation distillation: tell an item's own teacher features from others'.

Tian, Krishnan, Isola, ICLR 2020, arXiv:1910.10699.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdeploy.distill.contract import Batch, TaskFacts, loss
from kdeploy.distill.embeddings import pooled, unit
from kdeploy.errors import ModelError

if TYPE_CHECKING:
    from pydantic import Field


@loss(paper="arXiv:1910.10699", needs="features", of_items=True, exact=False)
class CRD(nn.Module):
    """Noise-contrastive estimation with a bank of embeddings for each network.

    Both networks' features are projected to vectors of length 1. Each student's vector is compared
    with the teacher's of the same item and with random others from the bank, and the other way
    round; the two sides are added. The banks take 8 * items * dimensions bytes and are part of the
    checkpoint. Negatives are drawn once a batch, from all items as the estimation's noise, and
    shared by its items; the authors draw 16384 for each item, at batch times the memory. In eval
    mode it remembers nothing. Weight 0.8 is usual.

    Args:
        student: Shape of the student's features (batch, channels, ...).
        teacher: Shape of the teacher's features (batch, other channels, ...).
        facts: For the number of items.
        dimensions: Width of the embeddings.
        negatives: Drawn for each batch; at most one less than there are items.
        temperature: Divides the products of embeddings; no unit; from 0.02, for
            exp(1 / temperature) must fit into float32.
        momentum: Part that stays of an item's vector in the bank when it is seen again.
    """

    banks: Tensor
    normalizers: Tensor

    def __init__(
        self,
        student: Sequence[int],
        teacher: Sequence[int],
        facts: TaskFacts,
        *,
        dimensions: Annotated[int, Field(gt=0)] = 128,
        negatives: Annotated[int, Field(gt=0)] = 4096,
        temperature: Annotated[float, Field(ge=0.02)] = 0.07,
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5,
    ) -> None:
        super().__init__()
        if facts.num_items < 2:
            raise ModelError(
                f"`crd` contrasts an item with others, found {facts.num_items} in the data",
                hint="use `kd`, which looks at each item alone",
            )
        self.temperature = temperature
        self.momentum = momentum
        self.num_negatives = min(negatives, facts.num_items - 1)
        self.projections = nn.ModuleList(nn.Linear(s[1], dimensions) for s in (student, teacher))
        # Student's, then teacher's: (2, items, dimensions); of each side Z / items, 0 until set.
        self.register_buffer("banks", unit(torch.randn(2, facts.num_items, dimensions)))
        self.register_buffer("normalizers", torch.zeros(2))

    def forward(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """Return the mean over the batch of both sides' losses."""
        pairs = zip(self.projections, (student, teacher), strict=True)
        own, other = (unit(project(pooled(features))) for project, features in pairs)
        rows = batch.rows.to(self.banks.device, non_blocking=True)
        noise = torch.randint(self.banks.shape[1], (self.num_negatives,), device=rows.device)
        value = self._side(0, own, self.banks[1], rows, noise)
        # The teacher's projection learns on this side only; else it would stay as it was drawn.
        value = value + self._side(1, other, self.banks[0], rows, noise)
        if self.training:
            self._remember(torch.stack([own, other]), rows)
        return value

    def _side(
        self, side: int, anchors: Tensor, bank: Tensor, rows: Tensor, noise: Tensor
    ) -> Tensor:
        """Return the logistic loss of telling the anchors' own vectors from noise.

        The paper's h = P / (P + K / N), with P = exp(product / temperature) / Z, is the sigmoid
        of log(P * N / K).
        """
        positive = (anchors * bank[rows]).sum(dim=1, keepdim=True)
        scores = torch.cat([positive, anchors @ bank[noise].T], dim=1) / self.temperature
        # log(P * N / K) = product / temperature - log(Z / N) - log(K).
        scores = scores - self._log_normalizer(side, scores) - math.log(self.num_negatives)
        # -log h of the positive, -log(1 - h) of each negative: softplus stays finite where h is 0
        # or 1.
        losses = functional.softplus(-scores[:, :1]), functional.softplus(scores[:, 1:])
        return torch.cat(losses, dim=1).sum(dim=1).mean()

    @torch.no_grad()
    def _log_normalizer(self, side: int, scores: Tensor) -> Tensor:
        """Return log(Z / N), with Z / N the mean over the first batch, constant from then."""
        fixed = self.normalizers[side]
        # No `if`: it would read a number back from the device in every step.
        found = torch.where(fixed > 0, fixed, scores.exp().mean())
        if self.training:
            self.normalizers[side] = found
        return found.log()

    @torch.no_grad()
    def _remember(self, vectors: Tensor, rows: Tensor) -> None:
        old = self.banks[:, rows]
        self.banks[:, rows] = unit(self.momentum * old + (1 - self.momentum) * vectors)
