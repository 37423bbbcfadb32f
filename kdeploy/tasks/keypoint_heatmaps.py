"""Keypoints by heatmaps: where each of some points is in an image, a map for each point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.contract import Dataset, Parts
from kdeploy.errors import DataError, ModelError
from kdeploy.metrics.contract import near_points
from kdeploy.tasks import usual
from kdeploy.tasks.contract import (
    Answer,
    Predictions,
    TensorAnswer,
    described,
    one_output,
    task,
)
from kdeploy.tasks.decoding.keypoint_heatmaps import points_of
from kdeploy.tasks.number_targets import as_floats, read_each

if TYPE_CHECKING:
    from pydantic import Field
    from torch import Tensor

NAMES = ("heatmaps", "maps", "logits")


@task(metric="keypoints.pck", scores="keypoints", loss="heatmap_kd", moves=True)
class KeypointHeatmaps:
    """Maps (N, points, height, width); targets are (N, points, 3): x, y in pixels, visibility.

    Visibility is 0 for a point that is not there, 1 for a hidden and 2 for a visible one. The map
    of a point is a Gaussian of height 1 around it.
    """

    name: str

    def __init__(self, *, sigma: Annotated[float, Field(gt=0)] = 1.5) -> None:
        """Keep what the recipe says.

        Args:
            sigma: Of the Gaussian around a point, in cells of the map; Xiao et al.,
                arXiv:1804.06208, use 2 for maps of 64x48.
        """
        self.sigma = sigma
        self._size: tuple[int, ...] = (1, 1)

    def read_targets(self, parts: Parts, *, where: str) -> Parts:
        size = tuple(parts.preprocessing.shape[1:])
        if len(size) != 2:
            raise DataError(
                f"{where}: keypoints need images (channels, height, width), items are "
                f"{tuple(parts.preprocessing.shape)}",
                hint="coordinates of other items are `task: regression`",
            )
        self._size = size
        return read_each(parts, lambda y, place: _points(y, place, size), where=where)

    def to_dict(self) -> dict[str, Any]:
        return described(self, {"size": list(self._size)})

    def check_answer(self, answer: Any, data: Dataset, *, who: str) -> None:
        shape = tuple(one_output(answer, who=who, names=NAMES).shape)
        count = data.train.y.shape[1] if data.train.y.ndim == 3 else None
        if len(shape) != 4 or (count is not None and shape[1] != count):
            raise ModelError(
                f"{who} returns {shape}; keypoints by heatmaps expect (items, {count or 'points'}, "
                "height, width), a map for each point",
                hint=f"end it with a convolution of {count or 'as many'} channels; coordinates "
                "without maps are `task: regression`",
            )

    def label_loss(
        self, answer: TensorAnswer, targets: Tensor, *, label_smoothing: float = 0.0
    ) -> Tensor:
        """Return the squared error to the Gaussians, the mean over points that are there."""
        maps = one_output(answer, names=NAMES).float()
        weight = (targets[..., 2] > 0).float()
        each = (maps - self._drawn(targets, maps)).square().mean(dim=(2, 3))
        # Of a map of mostly zeros the mean is tiny: counted in the area of a point instead.
        area = maps.shape[2] * maps.shape[3] / (2 * np.pi * self.sigma**2)
        found: Tensor = area * (each * weight).sum() / weight.sum().clamp(min=1)
        return found

    def distillable(self, answer: TensorAnswer) -> Tensor:
        found: Tensor = one_output(answer, names=NAMES)
        return found

    logit_targets = usual.targets_as_they_are
    rows = usual.as_distillable
    right = usual.no_share

    def predictions(self, answer: Answer, targets: NDArray[Any] | None) -> Predictions:
        """Return (N, points, 3): x, y in parts of the longer side, and the height of the peak."""
        found = points_of(one_output(answer, names=NAMES), self._size)
        return self._in_parts(found)

    def expected(self, targets: NDArray[Any]) -> Predictions:
        return self._in_parts(targets)

    log_likelihoods = usual.no_likelihoods
    metrics = usual.by_metrics
    agreement = usual.agreement_by_metrics
    unreadable = usual.numbers_that_are_none

    def item_scores(self, predictions: Predictions, expected: Predictions) -> NDArray[np.float64]:
        """Return the share of each item's visible points that are found near enough."""
        is_seen = expected[..., 2] > 0
        counts = is_seen.sum(axis=1)
        found = (near_points(predictions, expected) & is_seen).sum(axis=1)
        scores: NDArray[np.float64] = found[counts > 0] / counts[counts > 0]
        return scores

    def score(self, metrics: Mapping[str, float]) -> float:
        return metrics["keypoints.pck"]

    def _in_parts(self, points: NDArray[Any]) -> NDArray[np.float32]:
        made = np.array(points, np.float32)
        made[..., :2] /= max(self._size)
        return made

    def _drawn(self, targets: Tensor, maps: Tensor) -> Tensor:
        """Return the Gaussians of points (N, points, 3) as maps like `maps`."""
        import torch

        height, width = maps.shape[2:]
        # The centre of cell 0 is at (stride - 1) / 2 pixels, as `points_of` has it.
        column = (targets[..., 0] + 0.5) * (width / self._size[1]) - 0.5
        row = (targets[..., 1] + 0.5) * (height / self._size[0]) - 0.5
        across = torch.arange(width, device=maps.device) - column[..., None]
        down = torch.arange(height, device=maps.device) - row[..., None]
        squares = down[..., :, None] ** 2 + across[..., None, :] ** 2
        return torch.exp(-squares / (2 * self.sigma**2))


def _points(y: NDArray[Any], where: str, size: tuple[int, ...]) -> tuple[NDArray[np.float32], str]:
    if y.ndim != 3 or y.shape[-1] != 3:
        raise DataError(
            f"{where}: targets of shape {tuple(y.shape)}; keypoints take (N, points, 3)",
            hint="x, y in pixels of the image, and visibility: 0 absent, 1 hidden, 2 visible",
        )
    made = as_floats(y, where)
    if not np.isin(made[..., 2], (0, 1, 2)).all():
        item, point = np.argwhere(~np.isin(made[..., 2], (0, 1, 2)))[0]
        raise DataError(
            f"{where}: visibility {made[item, point, 2]:g} of point {point} at item {item}",
            hint="0 absent, 1 hidden, 2 visible",
        )
    there = made[..., 2] > 0
    outside = there & (
        (made[..., 0] < -0.5)
        | (made[..., 1] < -0.5)
        | (made[..., 0] > size[1] - 0.5)
        | (made[..., 1] > size[0] - 0.5)
    )
    if outside.any():
        item, point = np.argwhere(outside)[0]
        x, down = made[item, point, :2]
        raise DataError(
            f"{where}: point {point} at item {item} is at ({x:g}, {down:g}), outside of the image "
            f"of {size[0]}x{size[1]} (height x width)",
            hint="coordinates are x, y in pixels of the stored image; a point outside has "
            "visibility 0",
        )
    return made, ""
