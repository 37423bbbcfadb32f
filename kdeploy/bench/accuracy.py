"""Accuracy of the file that was timed, in the runtime that was timed, on the test part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy import registry
from kdeploy.classes import NO_CLASS, classes_of
from kdeploy.data.contract import NOT_COUNTED, Dataset
from kdeploy.errors import ModelError
from kdeploy.preprocessing import Inputs

Infer = Callable[[Inputs], NDArray[Any]]
CHUNK = 64  # items at once: most files run fastest per item near it, and memory stays small


def evaluate(
    infer: Infer, data: Dataset, *, batch_size: int
) -> tuple[dict[str, float], NDArray[np.int64]]:
    """Return every metric of accuracy, and the predicted classes of all test items.

    Of a test part without labels there are the classes alone, to compare files by.
    Of token labels the classes are those of all tokens that count, one after the other. Files with
    a fixed batch size are run in batches of `batch_size`, the size they were timed at.
    """
    y = np.asarray(data.test.y)
    predicted, log_likelihoods = predict(infer, data, chunk=_chunk(infer, data, batch_size))
    if not data.test.is_labelled:
        return {}, predicted
    metrics = judged("accuracy", predicted, y[y != NOT_COUNTED])
    return {**metrics, **_of_tokens(log_likelihoods)}, predicted


def judged(
    family: str, predicted: NDArray[np.int64], expected: NDArray[np.int64]
) -> dict[str, float]:
    """Return every metric of `names_of(family)`; none where a row has no class on either side."""
    if (predicted == NO_CLASS).any() or (expected == NO_CLASS).any():
        return {}
    metrics = _metrics("classes")
    return {name: float(metrics[name](predicted, expected)) for name in names_of(family)}


def names_of(family: str) -> list[str]:
    """Return the metrics of classes whose name begins with `family` and a dot."""
    return [name for name in _metrics("classes") if name.startswith(f"{family}.")]


def predict(
    infer: Infer, data: Dataset, *, chunk: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the class of each test item; the last batch is filled up to `chunk` and cut.

    Of token labels: the class of each token that counts, and the log-likelihood of the right one.
    """
    count, y = len(data.test), np.asarray(data.test.y)
    classes, log_likelihoods = [], []
    for start in range(0, count, chunk):
        outputs = infer(_items(data, start, chunk))[: count - start]
        labels = y[start : start + chunk]
        counts = labels != NOT_COUNTED if data.test.is_labelled else np.ones(len(labels), bool)
        if data.test.has_token_labels:
            log_likelihoods.append(log_likelihood(outputs[counts], labels[counts]))
        classes.append(classes_of(outputs)[counts])
    found = np.concatenate(log_likelihoods) if log_likelihoods else np.zeros(0)
    return np.concatenate(classes), found


def log_likelihood(logits: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the natural logarithm of each label's probability, (N,), of logits (N, classes)."""
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)
    right = np.take_along_axis(exact, labels[:, None], axis=1)[:, 0]
    found: NDArray[np.float64] = right - np.log(np.exp(exact).sum(axis=1))
    return found


def _of_tokens(log_likelihoods: NDArray[np.float64]) -> dict[str, float]:
    if not len(log_likelihoods):
        return {}
    metrics = _metrics("log_likelihoods")
    if not np.isfinite(log_likelihoods).all():
        return dict.fromkeys(metrics, float("nan"))
    return {name: float(metric(log_likelihoods)) for name, metric in metrics.items()}


def _metrics(needs: str) -> dict[str, Callable[..., float]]:
    known = {t.facts["name"]: t for t in registry.techniques("metric").values()}
    chosen = {n: t for n, t in known.items() if t.facts.get("needs", "classes") == needs}
    return {name: technique.load() for name, technique in sorted(chosen.items(), reverse=True)}


def _chunk(infer: Infer, data: Dataset, batch_size: int) -> int:
    try:
        infer(_items(data, 0, CHUNK))
    except ModelError:
        return batch_size
    return CHUNK


def _items(data: Dataset, start: int, size: int) -> Inputs:
    stored = np.asarray(data.test.x[start : start + size])
    # Repeated items fill the batch: some files take one batch size only.
    return data.preprocessing.apply(np.resize(stored, (size, *stored.shape[1:])))
