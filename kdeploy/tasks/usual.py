"""What many tasks do alike: methods that a class of a task takes as its own by assignment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.classes import classes_of
from kdeploy.classes import not_finite as without_class
from kdeploy.data.contract import NOT_COUNTED, Dataset
from kdeploy.tasks.class_logits import check_logits_of_classes, judged, log_likelihood, of_tokens
from kdeploy.tasks.contract import (
    Answer,
    Predictions,
    Task,
    TensorAnswer,
    described,
    facts_of,
    judged_as,
    metrics_for,
    not_finite,
    one_output,
)

if TYPE_CHECKING:
    from torch import Tensor


def parameters_alone(self: Any) -> dict[str, Any]:
    """Return name and parameters: nothing is found in the targets."""
    return described(self)


def the_output(self: Any, answer: TensorAnswer) -> Tensor:
    """Return the one output."""
    found: Tensor = one_output(answer)
    return found


def as_distillable(self: Any, answer: TensorAnswer, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return what losses of the task itself get, and the targets beside it."""
    return self.distillable(answer), self.logit_targets(targets)


def targets_as_they_are(self: Any, targets: Any) -> Any:
    """Return the targets."""
    return targets


def no_share(self: Any, answer: TensorAnswer, targets: Tensor) -> Tensor | None:
    """Return None: the score is no share of what is right."""
    return None


def no_likelihoods(self: Any, answer: Answer, targets: NDArray[Any]) -> NDArray[np.float64] | None:
    """Return None: nothing is a token with a class."""
    return None


def by_metrics(
    self: Task,
    predictions: Predictions,
    expected: Predictions,
    log_likelihoods: NDArray[np.float64] | None = None,
) -> dict[str, float]:
    """Return the registered metrics of the task; none where an answer is no number."""
    if self.unreadable(predictions) is not None:
        return {}
    return {n: float(m(predictions, expected)) for n, m in metrics_for(judged_as(self)).items()}


def agreement_by_metrics(
    self: Task, predictions: Predictions, taught: Predictions
) -> dict[str, float]:
    """Return the registered agreements of the task; none where an answer is no number."""
    if self.unreadable(predictions) is not None or self.unreadable(taught) is not None:
        return {}
    known = metrics_for(judged_as(self), family="agreement")
    return {name: float(metric(predictions, taught)) for name, metric in known.items()}


def numbers_that_are_none(
    self: Any, predictions: Predictions, *, what: str = "items"
) -> str | None:
    """Return which predictions hold NaN or infinity."""
    return not_finite(predictions, what=what)


# Of tasks whose output is logits with the classes last.


def check_class_logits(self: Any, answer: Any, data: Dataset, *, who: str) -> None:
    """Refuse other shapes, and another number of classes."""
    check_logits_of_classes(one_output(answer, who=who), data, who=who)


def class_loss(
    self: Any, answer: TensorAnswer, targets: Tensor, *, label_smoothing: float = 0.0
) -> Tensor:
    """Return the cross-entropy, the mean over items or over the tokens that count."""
    from kdeploy.tasks.cross_entropy import entropy

    return entropy(one_output(answer), targets, label_smoothing=label_smoothing)


def right_classes(self: Any, answer: TensorAnswer, targets: Tensor) -> Tensor | None:
    """Return how many get their class."""
    found: Tensor = (one_output(answer).argmax(-1) == targets).sum()
    return found


def right_or_not(self: Any, predictions: Predictions, expected: Predictions) -> NDArray[np.bool_]:
    """Return whether each item or token that counts gets its class, (N,)."""
    right: NDArray[np.bool_] = np.asarray(predictions == expected)[expected != NOT_COUNTED]
    return right


def counted_classes(self: Any, answer: Answer, targets: NDArray[Any] | None) -> Predictions:
    """Return the class of each item, or of each token that counts, (N,) int64."""
    found = classes_of(one_output(answer))
    if targets is None or targets.shape != found.shape:
        return found
    return np.asarray(found[targets != NOT_COUNTED])


def counted_logits(self: Any, answer: Answer, targets: NDArray[Any] | None) -> NDArray[Any]:
    """Return the logits of each token that counts, (N, classes)."""
    logits = one_output(answer)
    if targets is None:
        return np.asarray(logits).reshape(-1, logits.shape[-1])
    return np.asarray(logits[targets != NOT_COUNTED])


def counted_targets(self: Any, targets: NDArray[Any]) -> Predictions:
    """Return the targets that count, (N,)."""
    return np.asarray(targets[targets != NOT_COUNTED])


def token_likelihoods(
    self: Any, answer: Answer, targets: NDArray[Any]
) -> NDArray[np.float64] | None:
    """Return ln of the probability of each token's class; None where labels are of items."""
    if targets.ndim != 2:
        return None
    counts = targets != NOT_COUNTED
    return log_likelihood(one_output(answer)[counts], targets[counts])


def class_metrics(
    self: Any,
    predictions: Predictions,
    expected: Predictions,
    log_likelihoods: NDArray[np.float64] | None = None,
) -> dict[str, float]:
    """Return the metrics of classes, and of the likelihoods of tokens where there are any."""
    known = metrics_for(judged_as(self), family="accuracy")
    found = judged(known, predictions, expected) | of_tokens(judged_as(self), log_likelihoods)
    order = metrics_for(judged_as(self)), metrics_for(judged_as(self), needs="log_likelihoods")
    first = facts_of(judged_as(self))["metric"]
    names = sorted((*order[0], *order[1]), key=lambda name: name != first)
    return {name: found[name] for name in names if name in found}


def class_agreement(self: Any, predictions: Predictions, taught: Predictions) -> dict[str, float]:
    """Return the share of items or tokens with the same class."""
    return judged(metrics_for(judged_as(self), family="agreement"), predictions, taught)


def rows_without_class(self: Any, predictions: Predictions, *, what: str = "items") -> str | None:
    """Return which rows have no class."""
    return without_class(predictions, what=what)


def top1(self: Any, metrics: Any) -> float:
    """Return the share that is right."""
    return float(metrics["accuracy.top1"])
