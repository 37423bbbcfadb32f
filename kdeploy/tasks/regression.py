"""Regression: numbers for an item, such as quantities, angles or the coordinates of points."""

from __future__ import annotations

from collections.abc import Mapping
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
from kdeploy.tasks.number_targets import as_floats, read_each

if TYPE_CHECKING:
    from pydantic import Field
    from torch import Tensor

NAMES = ("values", "output")


@task(metric="regression.mae", scores="R2", loss="mse")
class Regression:
    """Numbers (N, D); targets are float vectors (N, D), or (N,) for one number an item."""

    name: str

    def __init__(
        self, *, standardize: bool = True, beta: Annotated[float, Field(gt=0)] = 1.0
    ) -> None:
        """Keep what the recipe says.

        Args:
            standardize: The model answers in standard deviations from the mean of the training
                targets, which trains best; false: in the targets' own unit.
            beta: Error, in standard deviations, up to which the loss is quadratic; above, linear.
        """
        self.standardize, self.beta = standardize, beta
        self._mean: NDArray[np.float64] = np.zeros(1)
        self._std: NDArray[np.float64] = np.ones(1)
        self._are_points = False

    @property
    def moves(self) -> bool | None:
        """Whether targets have places in the item; None: numbers of which nobody says."""
        return self._are_points or None

    def read_targets(self, parts: Parts, *, where: str) -> Parts:
        self._are_points = np.ndim(parts.train.y) == 3
        read = read_each(parts, _vectors, where=where)
        columns = read.train.y
        if columns.ndim != 2:  # nobody labelled the training part
            return read
        for name, split in read.named():
            if split.y.ndim == 2 and split.y.shape[1] != columns.shape[1]:
                raise DataError(
                    f"{name} part of {where}: targets have {split.y.shape[1]} numbers, those of "
                    f"train have {columns.shape[1]}",
                    hint="store the same columns in every part, in the same order",
                )
        exact = columns.astype(np.float64)
        self._mean, self._std = exact.mean(axis=0), exact.std(axis=0)
        # Not == 0: the mean of equal float64 numbers may be off by a last digit.
        constant = np.flatnonzero(self._std <= 1e-12 * np.abs(self._mean).clip(1e-12))
        if len(constant):
            raise DataError(
                f"train part of {where}: column {constant[0]} of the targets is always "
                f"{columns[0, constant[0]]:g}, which nothing can be learned of",
                hint="leave that column out: `y = np.delete(y, column, axis=1)`",
            )
        return read

    def to_dict(self) -> dict[str, Any]:
        return described(self, {"mean": self._mean.tolist(), "std": self._std.tolist()})

    def check_answer(self, answer: Any, data: Dataset, *, who: str) -> None:
        shape = tuple(one_output(answer, who=who, names=NAMES).shape)
        width = data.train.y.shape[1] if data.train.y.ndim == 2 else None
        if len(shape) != 2 or (width is not None and shape[1] != width):
            raise ModelError(
                f"{who} returns {shape}; regression expects (items, {width or 'numbers'}), one "
                "column for each number of a target",
                hint=f"end it with a layer of {width or 'as many'} outputs; `forward` keeps the "
                "axis of one number: `(items, 1)`",
            )

    def label_loss(
        self, answer: TensorAnswer, targets: Tensor, *, label_smoothing: float = 0.0
    ) -> Tensor:
        """Return the smooth L1 loss of standardised numbers, the mean over all of them."""
        from torch.nn import functional

        # In standard deviations either way: columns of other units would else weigh as their unit
        # says.
        own = self._standardized(one_output(answer, names=NAMES).float(), is_answer=True)
        true = self._standardized(targets.float(), is_answer=False)
        return functional.smooth_l1_loss(own, true, beta=self.beta)

    def distillable(self, answer: TensorAnswer) -> Tensor:
        """Return standard deviations, so that losses need not know the unit."""
        return self._standardized(one_output(answer, names=NAMES).float(), is_answer=True)

    def logit_targets(self, targets: Tensor) -> Tensor:
        return self._standardized(targets.float(), is_answer=False)

    rows = usual.as_distillable

    right = usual.no_share

    def predictions(self, answer: Answer, targets: NDArray[Any] | None) -> Predictions:
        """Return the numbers in the targets' own unit, (N, D) float32."""
        found = np.asarray(one_output(answer, names=NAMES), np.float32)
        if not self.standardize:
            return found
        return (found * self._std + self._mean).astype(np.float32)

    expected = usual.targets_as_they_are
    log_likelihoods = usual.no_likelihoods
    metrics = usual.by_metrics
    agreement = usual.agreement_by_metrics
    unreadable = usual.numbers_that_are_none

    def item_scores(self, predictions: Predictions, expected: Predictions) -> NDArray[np.float64]:
        """Return what each item adds to R2: 1 less its squared error, in variances of the part."""
        exact = expected.astype(np.float64)
        errors, variance = np.square(predictions - exact), exact.var(axis=0)
        # As R2 has it: a column that never changes explains nothing.
        explained = 1 - errors / np.where(variance > 0, variance, 1)
        scores: NDArray[np.float64] = np.where(variance > 0, explained, errors == 0).mean(axis=1)
        return scores

    def score(self, metrics: Mapping[str, float]) -> float:
        """Return R2: 1 is perfect, 0 what the mean would get."""
        return metrics["regression.r2"]

    def _standardized(self, values: Tensor, *, is_answer: bool) -> Tensor:
        if is_answer and self.standardize:
            return values
        mean, std = (values.new_tensor(v) for v in (self._mean, self._std))
        return (values - mean) / std


def _vectors(y: NDArray[Any], where: str) -> tuple[NDArray[np.float32], str]:
    if y.ndim == 0 or y.ndim > 3 or 0 in y.shape[1:]:
        raise DataError(
            f"{where}: targets of shape {tuple(y.shape)}; regression takes (N,), (N, D) or, of "
            "points, (N, points, coordinates)",
            hint="`y` has one row an item, with a column for each number",
        )
    made = as_floats(y, where)
    if made.ndim == 2:
        return made, ""
    flat = made.reshape(len(made), -1)
    return flat, f"{where}: targets {tuple(y.shape)} are taken as {flat.shape[1]} numbers an item"
