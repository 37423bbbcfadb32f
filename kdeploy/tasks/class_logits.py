"""What tasks share whose outputs are logits of classes: their shape, and metrics of classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


MOST_EXACT = 2**22
"""Logits that are float64 at a time, 32 MiB: a window of 512 tokens has 25 million of them."""


def of_tokens(
    name: str, values: NDArray[np.float64] | None, *, needs: str = "log_likelihoods"
) -> dict[str, float]:
    """Return the metrics that are computed from a number a token, (N,): its likelihood, say."""
    if values is None or not len(values):
        return {}
    metrics = metrics_for(name, needs=needs)
    # NaN, not left out: a perplexity that is missing would look like a task without one.
    if not np.isfinite(values).all():
        return dict.fromkeys(metrics, float("nan"))
    return {key: float(metric(values)) for key, metric in metrics.items()}


def row_blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield the rows of logits (N, classes), few enough at a time to be exact in little memory."""
    step = max(1, MOST_EXACT // shape[1])
    for start in range(0, shape[0], step):
        yield slice(start, start + step)


def log_probabilities(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return the natural logarithm of the softmax of each row, (N, classes), in float64."""
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)  # so that exp does not overflow
    exact -= np.log(np.exp(exact).sum(axis=1, keepdims=True))
    return exact


def log_likelihood(logits: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the natural logarithm of each label's probability, (N,), of logits (N, classes)."""
    found = np.empty(len(logits), np.float64)
    for rows in row_blocks(logits.shape):
        likely = log_probabilities(logits[rows])
        found[rows] = np.take_along_axis(likely, labels[rows, None], axis=1)[:, 0]
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
