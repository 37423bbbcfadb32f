"""Detection: boxes of objects in an image, with a class each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.boxes import FILLER, WIDTH
from kdeploy.data.contract import Dataset, Parts
from kdeploy.data.own_function import attribute_of
from kdeploy.errors import DataError, ModelError, RecipeError
from kdeploy.tasks.contract import (
    Answer,
    Predictions,
    TensorAnswer,
    described,
    judged_as,
    metrics_for,
    not_finite,
    task,
)
from kdeploy.tasks.decoding.detection import MOST_DETECTIONS, detections
from kdeploy.tasks.detection_heads import Detections, Head, KnownHead
from kdeploy.tasks.image_precision import image_precisions
from kdeploy.tasks.number_targets import as_floats, read_each

if TYPE_CHECKING:
    from pydantic import Field
    from torch import Tensor

AGREED_SCORE = 0.3
"""From which a teacher's detection counts as one, where nothing is labelled."""
SLACK_PIXELS = 1.0
_TARGETS = (
    "a target is (objects, 5): x1, y1, x2, y2 in pixels of the input, and the class; rows that "
    "only fill up have the class -1, crowds -2 less their class"
)


@task(metric="detection.map", scores="images' average precision", loss="detection_kd", moves=True)
class Detection:
    """Boxes of an image: targets (N, objects, 5), predictions (N, 100, 6) with the score last."""

    name: str

    def __init__(
        self,
        *,
        head: Path | None = None,
        scores: Literal["auto", "logits", "probabilities"] = "auto",
        box_weight: Annotated[float, Field(ge=0)] = 5.0,
        score_threshold: Annotated[float, Field(ge=0, lt=1)] = 0.01,
        overlap: Annotated[float, Field(gt=0, le=1)] = 0.6,
    ) -> None:
        """Keep what the recipe says.

        Args:
            head: `path.py:Head`, a class whose `decode` reads outputs of another form.
            scores: What outputs called scores are; auto: of cells logits, of decoded boxes
                probabilities.
            box_weight: Weight of the boxes in the loss with labels, beside 1 for the classes.
            score_threshold: Detections below it are left out.
            overlap: Intersection over union from which the worse of two boxes of a class goes.
        """
        self.head = str(head) if head else ""
        self.scores, self.box_weight = scores, box_weight
        self.score_threshold, self.overlap = score_threshold, overlap
        self._head = _head(self.head, scores)
        self._size: tuple[int, int] = (0, 0)
        self._classes: tuple[str, ...] = ()

    def read_targets(self, parts: Parts, *, where: str) -> Parts:
        shape = parts.preprocessing.shape
        if len(shape) != 3:
            raise DataError(
                f"{where}: items have the shape {tuple(shape)}; detection is of images",
                hint="items are (channels, height, width)",
            )
        self._size = (shape[1], shape[2])
        read = read_each(parts, partial(_boxes, size=self._size), where=where)
        self._classes = _classes(read, parts, where)
        return replace(read, preprocessing=replace(read.preprocessing, classes=self._classes))

    def to_dict(self) -> dict[str, Any]:
        return described(self, {"size": list(self._size), "classes": list(self._classes)})

    def check_answer(self, answer: Any, data: Dataset, *, who: str) -> None:
        found = self._decoded(answer)
        count = int(found.logits.shape[-1])
        known = len(self._classes)
        if known and count != known:
            raise ModelError(
                f"{who} has scores of {count} classes, {data.name} has {known}",
                hint=f"build it for {known} classes; there is none for background",
            )

    def label_loss(
        self, answer: TensorAnswer, targets: Tensor, *, label_smoothing: float = 0.0
    ) -> Tensor:
        """Return the loss of classes and boxes, see `detection_loss`."""
        from kdeploy.tasks.detection_loss import detection_loss

        return detection_loss(self._decoded(answer), targets, box_weight=self.box_weight)

    def distillable(self, answer: TensorAnswer) -> Tensor:
        """Return (N, candidates, 4 + classes + 4 * bins): boxes, logits, logits of bins."""
        import torch

        found = self._decoded(answer)
        parts = [found.boxes, found.logits]
        if found.bins is not None:
            parts.append(found.bins.flatten(2))
        return torch.cat([part.float() for part in parts], dim=-1)

    def logit_targets(self, targets: Tensor) -> Tensor:
        return targets

    def rows(self, answer: TensorAnswer, targets: Tensor) -> tuple[Tensor, Tensor]:
        return self.distillable(answer), targets

    def right(self, answer: TensorAnswer, targets: Tensor) -> Tensor | None:
        return None

    def predictions(self, answer: Answer, targets: NDArray[Any] | None) -> Predictions:
        """Return the best detections of each image, (N, 100, 6), the class -1 where none is."""
        found = self._decoded(answer)
        boxes, logits = np.asarray(found.boxes), np.asarray(found.logits)
        made = np.zeros((len(boxes), MOST_DETECTIONS, WIDTH + 1), np.float32)
        made[..., WIDTH - 1] = FILLER
        for row in range(len(boxes)):
            own = detections(
                boxes[row],
                logits[row],
                score_threshold=self.score_threshold,
                overlap=self.overlap,
                size=self._size,
            )
            made[row, : len(own)] = own
        return made

    def expected(self, targets: NDArray[Any]) -> Predictions:
        return targets

    def log_likelihoods(self, answer: Answer, targets: NDArray[Any]) -> NDArray[np.float64] | None:
        return None

    def metrics(
        self,
        predictions: Predictions,
        expected: Predictions,
        log_likelihoods: NDArray[np.float64] | None = None,
    ) -> dict[str, float]:
        if self.unreadable(predictions) is not None:
            return {}
        return {n: m(predictions, expected) for n, m in metrics_for(judged_as(self)).items()}

    def agreement(self, predictions: Predictions, taught: Predictions) -> dict[str, float]:
        """Return the average precision with the other's detections from score 0.3 as truth."""
        if self.unreadable(predictions) or self.unreadable(taught):
            return {}
        known = metrics_for(judged_as(self), family="agreement")
        truth = as_truth(taught)
        if not (truth[..., -1] > FILLER).any():
            return {}
        return {name: metric(predictions, truth) for name, metric in known.items()}

    def unreadable(self, predictions: Predictions, *, what: str = "items") -> str | None:
        return not_finite(predictions, what=what)

    def item_scores(self, predictions: Predictions, expected: Predictions) -> NDArray[np.float64]:
        """Return the average precision at overlap 0.5 of each image that has objects."""
        return image_precisions(predictions, expected)

    def score(self, metrics: Mapping[str, float]) -> float:
        return metrics["detection.map"]

    def _decoded(self, answer: Any) -> Detections:
        found = self._head.decode(answer, self._size)
        return (
            found if isinstance(found, Detections) else Detections(boxes=found[0], logits=found[1])
        )


def as_truth(detections: Predictions, *, score: float = AGREED_SCORE) -> Predictions:
    """Return detections (N, n, 6) as targets (N, n, 5): those from a score on."""
    truth = np.array(detections[..., :WIDTH])
    truth[detections[..., WIDTH] < score, WIDTH - 1] = FILLER
    return truth


def _head(name: str, scores: str) -> Head:
    if not name:
        return KnownHead(probabilities=None if scores == "auto" else scores == "probabilities")
    made = attribute_of(name, Path(), kind="class")()
    if not hasattr(made, "decode"):
        raise RecipeError(
            f"task.detection.head: `{name}` has no `decode`",
            hint="write `def decode(self, answer, size): return boxes, logits`, (N, K, 4) in "
            "pixels of the input and (N, K, C)",
        )
    return cast("Head", made)


def _boxes(y: NDArray[Any], where: str, *, size: Sequence[int]) -> tuple[NDArray[np.float32], str]:
    """Return boxes as float32, inside of their images, and what was cut."""
    if y.ndim != 3 or y.shape[2] != WIDTH:
        raise DataError(f"{where}: targets have the shape {tuple(y.shape)}", hint=_TARGETS)
    made = as_floats(y, where)
    labels = made[..., 4]
    is_real = labels != FILLER
    _refuse(made, is_real & (labels != np.round(labels)), where, "a class that is no whole number")
    low, high = made[..., :2], made[..., 2:4]
    _refuse(made, is_real & (high <= low).any(-1), where, "no width or no height")
    limit = np.array([size[1], size[0]], np.float32)
    over = np.maximum(-low, high - limit).max(-1)
    _refuse(
        made, is_real & (over > SLACK_PIXELS), where,
        f"corners outside of its image of {size[1]} x {size[0]} pixels",
    )  # fmt: skip
    cut = int((is_real & (over > 0)).sum())
    made[..., :4] = np.where(
        is_real[..., None], np.clip(made[..., :4], 0, [*limit, *limit]), made[..., :4]
    )
    return made, f"{where}: {cut} boxes were cut at the edge of their image" if cut else ""


def _refuse(boxes: NDArray[Any], is_wrong: NDArray[np.bool_], where: str, what: str) -> None:
    if is_wrong.any():
        item, place = (int(i) for i in np.argwhere(is_wrong)[0])
        values = ", ".join(f"{v:g}" for v in boxes[item, place])
        raise DataError(
            f"{where}: box {place} of item {item}, ({values}), has {what}", hint=_TARGETS
        )


def _classes(read: Parts, parts: Parts, where: str) -> tuple[str, ...]:
    """Return the names of the classes, and refuse boxes of others."""
    given = parts.as_given.classes if parts.as_given else parts.preprocessing.classes
    largest = {
        # A crowd of class c is -2 - c.
        name: int(np.maximum(s.y[..., 4], -2 - s.y[..., 4]).max(initial=0))
        for name, s in read.named()
        if s.y.ndim == 3
    }
    if given is None or (not isinstance(given, int) and not len(given)):
        given = max(largest.get("train", 0) + 1, 1)
    names = tuple(map(str, range(given))) if isinstance(given, int) else tuple(given)
    for part, found in largest.items():
        if found >= len(names):
            raise DataError(
                f"{part} part of {where}: a box has the class {found}, there are {len(names)}: "
                f"0..{len(names) - 1}",
                hint="name all classes in `classes`; they are counted from 0",
            )
    return names
