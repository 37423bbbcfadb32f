"""Tokens: a label for every token, such as the names of persons and places in a text."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.classes import NO_CLASS, classes_of
from kdeploy.data.class_targets import read_classes
from kdeploy.data.contract import NOT_COUNTED, Parts
from kdeploy.errors import DataError
from kdeploy.tasks import usual
from kdeploy.tasks.class_logits import judged, log_likelihood
from kdeploy.tasks.contract import (
    Answer,
    Predictions,
    described,
    judged_as,
    metrics_for,
    one_output,
    task,
)


@task(metric="tokens.f1", like="classification", moves=True)
class Tokens:
    """Logits (N, tokens, classes); targets are class indices, -100 where a token does not count.

    Class 0 is what is no entity, `O`. Where names of classes begin with `B-` and `I-`, an entity
    begins at each `B-`; else it is a run of tokens of one class.
    """

    name: str

    def __init__(self) -> None:
        self._classes: tuple[str, ...] = ()

    def read_targets(self, parts: Parts, *, where: str) -> Parts:
        read = read_classes(parts, where=where)
        for name, split in read.named():
            if split.is_labelled and split.y.ndim != 2:
                raise DataError(
                    f"{name} part of {where}: labels of shape {tuple(split.y.shape)}; the task "
                    "needs one for every token, (N, tokens)",
                    hint="one label a text is `task: classification`; -100 marks a token that does "
                    "not count",
                )
        self._classes = read.preprocessing.classes
        return read

    def to_dict(self) -> dict[str, Any]:
        return described(self, {"classes": list(self._classes)})

    check_answer = usual.check_class_logits
    label_loss = usual.class_loss
    distillable = usual.the_output
    logit_targets = usual.targets_as_they_are
    rows = usual.as_distillable
    right = usual.no_share

    def predictions(self, answer: Answer, targets: NDArray[Any] | None) -> Predictions:
        """Return the class of each token, (N, tokens), and -100 where it does not count."""
        found = classes_of(one_output(answer))
        return found if targets is None else np.where(targets == NOT_COUNTED, NOT_COUNTED, found)

    expected = usual.targets_as_they_are
    item_scores = usual.right_or_not

    def log_likelihoods(self, answer: Answer, targets: NDArray[Any]) -> NDArray[np.float64] | None:
        counts = targets != NOT_COUNTED
        return log_likelihood(one_output(answer)[counts], targets[counts])

    def metrics(
        self,
        predictions: Predictions,
        expected: Predictions,
        log_likelihoods: NDArray[np.float64] | None = None,
    ) -> dict[str, float]:
        if self.unreadable(predictions) is not None:
            return {}
        known = metrics_for(judged_as(self))
        entities = known["tokens.f1"](predictions, expected, classes=self._classes)
        counts = expected != NOT_COUNTED
        of_classes = {n: m for n, m in known.items() if n.startswith("accuracy.")}
        flat = judged(of_classes, predictions[counts], expected[counts])
        return {"tokens.f1": float(entities), **flat}

    def agreement(self, predictions: Predictions, taught: Predictions) -> dict[str, float]:
        counts = (predictions != NOT_COUNTED) & (taught != NOT_COUNTED)
        known = metrics_for(judged_as(self), family="agreement")
        return judged(known, predictions[counts], taught[counts])

    unreadable = usual.rows_without_class

    def score(self, metrics: Any) -> float:
        return float(metrics["tokens.f1"])


assert NO_CLASS != NOT_COUNTED, "a token without a class counts, and is wrong"
