"""What tasks share whose outputs are logits of classes: their shape, and metrics of classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.classes import NO_CLASS
from kdeploy.data.contract import Dataset
from kdeploy.errors import ModelError
from kdeploy.tasks.contract import metrics_for


def judged(
    known: Mapping[str, Any], predicted: NDArray[np.int64], expected: NDArray[np.int64]
) -> dict[str, float]:
    """Return metrics of class indices; none where a row has no class on either side."""
    if (predicted == NO_CLASS).any() or (expected == NO_CLASS).any():
        return {}
    return {name: float(metric(predicted, expected)) for name, metric in known.items()}


def of_tokens(name: str, log_likelihoods: NDArray[np.float64] | None) -> dict[str, float]:
    """Return the metrics that are computed from the likelihood of each token."""
    if log_likelihoods is None or not len(log_likelihoods):
        return {}
    metrics = metrics_for(name, needs="log_likelihoods")
    # NaN, not left out: a perplexity that is missing would look like a task without one.
    if not np.isfinite(log_likelihoods).all():
        return dict.fromkeys(metrics, float("nan"))
    return {key: float(metric(log_likelihoods)) for key, metric in metrics.items()}


def log_likelihood(logits: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the natural logarithm of each label's probability, (N,), of logits (N, classes)."""
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)  # so that exp does not overflow
    right = np.take_along_axis(exact, labels[:, None], axis=1)[:, 0]
    found: NDArray[np.float64] = right - np.log(np.exp(exact).sum(axis=1))
    return found


def check_logits_of_classes(logits: Any, data: Dataset, *, who: str) -> None:
    """Refuse logits of other shapes or of another number of classes than the data have.

    Raises:
        ModelError: with what was expected.
    """
    shape = tuple(logits.shape)
    wanted = (shape[0], *data.train.y.shape[1:]) if shape else ()
    if shape[:-1] != wanted:
        raise ModelError(
            f"{who} returns {shape}; expected logits {(*wanted, data.num_classes)}",
            hint="let the build function return a module whose forward gives one tensor of logits",
        )
    vocabulary = data.preprocessing.vocabulary
    if not data.num_classes and len(wanted) == 2 and shape[-1] < vocabulary:
        raise ModelError(
            f"{who} has logits of {shape[-1]} tokens, the tokenizer of {data.name} has "
            f"{vocabulary}",
            hint="name the tokenizer that the model was made for: `data.tokenizer: DIR`",
        )
    if data.num_classes and shape[-1] != data.num_classes:
        raise ModelError(
            f"{who} has {shape[-1]} classes, {data.name} has {data.num_classes}: "
            f"labels 0..{data.num_classes - 1}",
            hint=_classes_hint(shape[-1], data.num_classes, who.removeprefix("the ")),
        )


def _classes_hint(found: int, wanted: int, role: str) -> str:
    args = "`--args`" if role == "model" else f"`{role}.args`"
    if " " in role:  # a further model of a scheme
        args = "the `args` beside its `build`"
    if found == 1:
        return (
            "one output is a quantity (`task: regression`) or a score; build it with one a class:"
            f" {wanted}"
        )
    hint = f"build it with {wanted} outputs (see {args}, e.g. `num_classes: {wanted}`)"
    if found < wanted:
        return f"{hint}, or leave out the items of the others"
    return f"{hint}; if the data has {found} classes, some without items: `data.classes: {found}`"
