"""Multi-label classification: any number of labels at once, each there or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.contract import Dataset, Parts
from kdeploy.errors import DataError, ModelError
from kdeploy.tasks import usual
from kdeploy.tasks.contract import (
    Answer,
    Predictions,
    TensorAnswer,
    described,
    one_output,
    task,
)
from kdeploy.tasks.decoding.multi_label import probabilities
from kdeploy.tasks.number_targets import read_each

if TYPE_CHECKING:
    from pydantic import Field
    from torch import Tensor

UNKNOWN = -1


@task(metric="multi_label.map", scores="labels", loss="binary_kd")
class MultiLabel:
    """Logits (N, labels); targets are 1 or 0 for each label, -1 where nobody knows."""

    name: str

    def __init__(
        self,
        *,
        threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5,
        balance: bool = False,
    ) -> None:
        """Keep what the recipe says.

        Args:
            threshold: Probability from which the device names a label; metrics are at 0.5.
            balance: Weigh positives of each label by how many negatives it has for each of them.
        """
        self.threshold, self.balance = threshold, balance
        self._labels: tuple[str, ...] = ()
        self._weights: NDArray[np.float64] = np.ones(1)

    def read_targets(self, parts: Parts, *, where: str) -> Parts:
        given = parts.as_given
        read = read_each(parts, _sets, where=where)
        known = read.preprocessing
        width = read.train.y.shape[1] if read.train.y.ndim == 2 else 0
        if given is not None:
            names = given.classes if not isinstance(given.classes, int) else None
            count = given.classes if isinstance(given.classes, int) else width
            names = tuple(map(str, names if names is not None else range(count)))
            known = replace(known, classes=names)
        for name, split in read.named():
            if split.y.ndim == 2 and split.y.shape[1] != len(known.classes):
                raise DataError(
                    f"{name} part of {where}: targets have {split.y.shape[1]} columns for "
                    f"{len(known.classes)} labels",
                    hint="give every part the same columns, and `classes` a name for each",
                )
        self._labels = known.classes
        if not width:
            return replace(read, preprocessing=known)
        positive, negative = (read.train.y == 1).sum(axis=0), (read.train.y == 0).sum(axis=0)
        # A label seen once in a million would outweigh all others by as much.
        self._weights = np.clip(negative / np.maximum(positive, 1), 1e-2, 1e2)
        without = [n for n, c in zip(known.classes, positive, strict=True) if not c]
        share = float((read.train.y == 1).sum() / len(read.train.y))
        notes = [f"{where}: {share:.2f} labels an item in the training part"]
        if without:
            listed = ", ".join(without[:5]) + (", ..." if without[5:] else "")
            notes.append(f"{where}: no training item has {len(without)} of the labels: {listed}")
        return replace(read, preprocessing=known, notes=(*read.notes, *notes))

    def to_dict(self) -> dict[str, Any]:
        return described(self, {"labels": list(self._labels)})

    def check_answer(self, answer: Any, data: Dataset, *, who: str) -> None:
        shape, count = tuple(one_output(answer, who=who).shape), data.num_classes
        if len(shape) != 2 or (count and shape[1] != count):
            raise ModelError(
                f"{who} returns {shape}; multi-label classification expects logits (items, "
                f"{count or 'labels'})",
                hint=f"end it with a layer of {count or 'as many'} outputs, without a sigmoid",
            )

    def label_loss(
        self, answer: TensorAnswer, targets: Tensor, *, label_smoothing: float = 0.0
    ) -> Tensor:
        """Return the binary cross-entropy, the mean over the labels that are known."""
        from torch.nn import functional

        logits = one_output(answer).float()
        is_known = targets >= 0
        true = targets.clamp(min=0).float()
        true = true * (1 - label_smoothing) + label_smoothing / 2
        weights = logits.new_tensor(self._weights) if self.balance else None
        each = functional.binary_cross_entropy_with_logits(
            logits, true, pos_weight=weights, reduction="none"
        )
        found: Tensor = (each * is_known).sum() / is_known.sum().clamp(min=1)
        return found

    distillable = usual.the_output
    logit_targets = usual.targets_as_they_are
    rows = usual.as_distillable
    right = usual.no_share

    def predictions(self, answer: Answer, targets: NDArray[Any] | None) -> Predictions:
        """Return the probability of each label, (N, labels) float32."""
        found: Predictions = probabilities(one_output(answer))
        return found

    expected = usual.targets_as_they_are
    log_likelihoods = usual.no_likelihoods
    metrics = usual.by_metrics
    agreement = usual.agreement_by_metrics
    unreadable = usual.numbers_that_are_none

    def item_scores(self, predictions: Predictions, expected: Predictions) -> NDArray[np.float64]:
        """Return the share of each item's known labels that are right, above a half being there."""
        is_known = expected >= 0
        counts = is_known.sum(axis=1)
        right = (((predictions > 0.5) == (expected > 0.5)) & is_known).sum(axis=1)
        scores: NDArray[np.float64] = right[counts > 0] / counts[counts > 0]
        return scores

    def score(self, metrics: Mapping[str, float]) -> float:
        return metrics["multi_label.map"]


def _sets(y: NDArray[Any], where: str) -> tuple[NDArray[np.int8], str]:
    if y.ndim != 2 or y.dtype.kind not in "biuf":
        raise DataError(
            f"{where}: targets are {y.dtype} of shape {tuple(y.shape)}; multi-label classification "
            "takes (N, labels)",
            hint="one column a label: 1 where the item has it, 0 where not, -1 where nobody knows",
        )
    wrong = ~np.isin(y, (0, 1, UNKNOWN))
    if wrong.any():
        item, column = np.argwhere(wrong)[0]
        raise DataError(
            f"{where}: target {y[item, column]:g} at item {item}, label {column} is none of 1, 0 "
            "and -1",
            hint="1 where the item has the label, 0 where not, -1 where nobody knows; numbers "
            "between are `task: regression`",
        )
    return y.astype(np.int8), ""
