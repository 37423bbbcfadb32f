"""Classification: one class an item, or one for every token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.classes import classes_of, not_finite
from kdeploy.data.class_targets import read_classes
from kdeploy.data.contract import NOT_COUNTED, Dataset, Parts
from kdeploy.tasks.class_logits import (
    check_logits_of_classes,
    judged,
    log_likelihood,
    of_tokens,
)
from kdeploy.tasks.contract import (
    Answer,
    Predictions,
    TensorAnswer,
    described,
    metrics_for,
    one_output,
    task,
)

if TYPE_CHECKING:
    from torch import Tensor


@task(metric="accuracy.top1")
class Classification:
    """Logits (N, classes), or (N, tokens, classes); targets are class indices."""

    name: str

    def read_targets(self, parts: Parts, *, where: str) -> Parts:
        return read_classes(parts, where=where)

    def to_dict(self) -> dict[str, Any]:
        return described(self)

    def check_answer(self, answer: Any, data: Dataset, *, who: str) -> None:
        check_logits_of_classes(one_output(answer, who=who), data, who=who)

    def label_loss(
        self, answer: TensorAnswer, targets: Tensor, *, label_smoothing: float = 0.0
    ) -> Tensor:
        from kdeploy.tasks.cross_entropy import entropy

        return entropy(one_output(answer), targets, label_smoothing=label_smoothing)

    def distillable(self, answer: TensorAnswer) -> Tensor:
        found: Tensor = one_output(answer)
        return found

    def logit_targets(self, targets: Tensor) -> Tensor:
        return targets

    def right(self, answer: TensorAnswer, targets: Tensor) -> Tensor | None:
        found: Tensor = (one_output(answer).argmax(-1) == targets).sum()
        return found

    def predictions(self, answer: Answer, targets: NDArray[Any] | None) -> Predictions:
        """Return the class of each item, or of each token that counts, (N,) int64."""
        found = classes_of(one_output(answer))
        if targets is None or targets.shape != found.shape:
            return found
        return np.asarray(found[targets != NOT_COUNTED])

    def expected(self, targets: NDArray[Any]) -> Predictions:
        return np.asarray(targets[targets != NOT_COUNTED])

    def log_likelihoods(self, answer: Answer, targets: NDArray[Any]) -> NDArray[np.float64] | None:
        if targets.ndim != 2:
            return None
        counts = targets != NOT_COUNTED
        return log_likelihood(one_output(answer)[counts], targets[counts])

    def metrics(
        self,
        predictions: Predictions,
        expected: Predictions,
        log_likelihoods: NDArray[np.float64] | None = None,
    ) -> dict[str, float]:
        known = metrics_for(self.name, family="accuracy")
        return judged(known, predictions, expected) | of_tokens(self.name, log_likelihoods)

    def agreement(self, predictions: Predictions, taught: Predictions) -> dict[str, float]:
        return judged(metrics_for(self.name, family="agreement"), predictions, taught)

    def unreadable(self, predictions: Predictions, *, what: str = "items") -> str | None:
        return not_finite(predictions, what=what)

    def score(self, metrics: Mapping[str, float]) -> float:
        return metrics["accuracy.top1"]
