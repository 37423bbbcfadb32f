"""Embedding: a vector for each item, so that items that belong together lie near each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.contract import Dataset, Parts
from kdeploy.errors import DataError, ModelError
from kdeploy.metrics.contract import neighbours_in_group
from kdeploy.tasks import usual
from kdeploy.tasks.contract import (
    Answer,
    Predictions,
    TensorAnswer,
    one_output,
    task,
)
from kdeploy.tasks.decoding.embedding import unit_vectors
from kdeploy.tasks.number_targets import read_each

if TYPE_CHECKING:
    from pydantic import Field
    from torch import Tensor

NAMES = ("embedding", "embeddings", "output")


@task(metric="embedding.recall_at_1", scores="nearest neighbours", loss="cosine")
class Embedding:
    """Vectors (N, width), compared by their cosine; targets are numbers of groups, (N,).

    Data without labels need a teacher alone: what is judged is whether neighbours are the same.
    """

    name: str

    def __init__(self, *, temperature: Annotated[float, Field(gt=0)] = 0.1) -> None:
        """Keep what the recipe says.

        Args:
            temperature: Of the label loss: smaller ones look at the nearest neighbours alone.
        """
        self.temperature = temperature

    def read_targets(self, parts: Parts, *, where: str) -> Parts:
        return read_each(parts, _groups, where=where)

    to_dict = usual.parameters_alone

    def check_answer(self, answer: Any, data: Dataset, *, who: str) -> None:
        shape = tuple(one_output(answer, who=who, names=NAMES).shape)
        if len(shape) != 2 or shape[1] < 2:
            raise ModelError(
                f"{who} returns {shape}; an embedding is one vector an item, (items, width)",
                hint="pool over positions: `x.mean(dim=(2, 3))`, of tokens `x.mean(dim=1)`",
            )

    def label_loss(
        self, answer: TensorAnswer, targets: Tensor, *, label_smoothing: float = 0.0
    ) -> Tensor:
        """Return the supervised contrastive loss, Khosla et al., NeurIPS 2020, arXiv:2004.11362.

        L_out of equation 2: the mean over items with another of their group in the batch; 0 where
        no item has one.
        """
        import torch
        from torch.nn import functional

        vectors = functional.normalize(one_output(answer, names=NAMES).float(), dim=1)
        similar = vectors @ vectors.T / self.temperature
        itself = torch.eye(len(similar), dtype=torch.bool, device=similar.device)
        # An item is not its own neighbour, neither above nor below the fraction.
        logs = functional.log_softmax(similar.masked_fill(itself, float("-inf")), dim=1)
        pairs = (targets[:, None] == targets) & ~itself & (targets >= 0)
        counts = pairs.sum(dim=1)
        # masked, not multiplied: -inf of an item with itself times 0 is NaN.
        each = -logs.masked_fill(~pairs, 0).sum(dim=1) / counts.clamp(min=1)
        found: Tensor = each.sum() / (counts > 0).sum().clamp(min=1)
        return found

    def distillable(self, answer: TensorAnswer) -> Tensor:
        found: Tensor = one_output(answer, names=NAMES)
        return found

    logit_targets = usual.targets_as_they_are
    rows = usual.as_distillable
    right = usual.no_share

    def predictions(self, answer: Answer, targets: NDArray[Any] | None) -> Predictions:
        """Return unit vectors, (N, width) float32."""
        found: Predictions = unit_vectors(one_output(answer, names=NAMES))
        return found

    expected = usual.targets_as_they_are
    log_likelihoods = usual.no_likelihoods
    metrics = usual.by_metrics
    agreement = usual.agreement_by_metrics
    unreadable = usual.numbers_that_are_none

    def item_scores(self, predictions: Predictions, expected: Predictions) -> NDArray[np.bool_]:
        """Return whether the nearest other item is of the group, of items that have one there."""
        return neighbours_in_group(predictions, expected)

    def score(self, metrics: Mapping[str, float]) -> float:
        return metrics["embedding.recall_at_1"]


def _groups(y: NDArray[Any], where: str) -> tuple[NDArray[np.int64], str]:
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise DataError(
            f"{where}: targets are {y.dtype} of shape {tuple(y.shape)}; an embedding takes the "
            "number of a group for each item, (N,) integers",
            hint="items of one group belong together; names become numbers by "
            "`np.unique(names, return_inverse=True)[1]`",
        )
    return y.astype(np.int64), ""
