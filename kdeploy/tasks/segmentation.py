"""Segmentation: a class for every pixel of an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.contract import NOT_COUNTED, Dataset, Parts
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
from kdeploy.tasks.decoding.segmentation import IGNORED, class_maps
from kdeploy.tasks.number_targets import read_each

if TYPE_CHECKING:
    from torch import Tensor

MOST_CLASSES = 254
NAMES = ("out", "logits", "masks")


@task(
    metric="segmentation.miou",
    scores="pixels",
    like="classification",
    loss="pixel_kd",
    taught={"dist": {"temperature": 1.0, "weight": 2.0}},
    moves=True,
)
class Segmentation:
    """Logits (N, classes, height, width), of two classes also (N, 1, ...); targets are masks.

    Masks are (N, H, W) of class indices, 255 where a pixel counts nowhere. Logits of a smaller size
    are brought to that of the masks before a class is read, and before the label loss.
    """

    name: str

    def __init__(self) -> None:
        self._size: tuple[int, ...] = ()
        self._classes: tuple[str, ...] = ()

    def read_targets(self, parts: Parts, *, where: str) -> Parts:
        size = tuple(parts.preprocessing.shape[1:])
        if len(size) != 2:
            raise DataError(
                f"{where}: segmentation needs images (channels, height, width), items are "
                f"{tuple(parts.preprocessing.shape)}",
                hint="a label for each step of a signal is no mask; choose another `task`",
            )
        given = parts.as_given
        read = read_each(parts, lambda y, place: _masks(y, place, size), where=where)
        known = read.preprocessing
        if given is not None or not known.classes:
            known = replace(known, classes=_names(given.classes if given else None, read, where))
        _check_range(read, known.classes, where)
        self._size, self._classes = size, known.classes
        return replace(read, preprocessing=known)

    def to_dict(self) -> dict[str, Any]:
        return described(self, {"size": list(self._size), "classes": list(self._classes)})

    def check_answer(self, answer: Any, data: Dataset, *, who: str) -> None:
        shape = tuple(one_output(answer, who=who, names=NAMES).shape)
        count, size = data.num_classes, tuple(data.preprocessing.shape[1:])
        widths = {count, 1} if count == 2 else {count} if count else {shape[1] if shape[1:] else 0}
        if len(shape) != 4 or shape[1] not in widths:
            raise ModelError(
                f"{who} returns {shape}; segmentation expects logits (items, {count or 'classes'}, "
                f"{size[0]}, {size[1]})",
                hint=f"end it with a convolution of {count or 'as many'} channels; class logits "
                "stand in the second axis, before any softmax or argmax",
            )
        if any(own > whole for own, whole in zip(shape[2:], size, strict=True)):
            raise ModelError(
                f"{who} returns maps of {shape[2]}x{shape[3]} for images of {size[0]}x{size[1]}",
                hint="maps are of the images' size, or smaller",
            )

    def label_loss(
        self, answer: TensorAnswer, targets: Tensor, *, label_smoothing: float = 0.0
    ) -> Tensor:
        """Return the cross-entropy, the mean over the pixels that count."""
        from torch.nn import functional

        logits = _two_classes(one_output(answer, names=NAMES).float())
        logits = _of_size(logits, targets.shape[1:])
        true = _counted(targets)
        return functional.cross_entropy(logits, true, label_smoothing=label_smoothing)

    def distillable(self, answer: TensorAnswer) -> Tensor:
        found: Tensor = one_output(answer, names=NAMES)
        return found

    logit_targets = usual.targets_as_they_are

    def rows(self, answer: TensorAnswer, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, height, width, classes); where no class is known, nothing is taught.

        Beside masks they are of the masks' size; items without one keep that of the model's maps.
        """
        logits = _two_classes(one_output(answer, names=NAMES))
        if targets.ndim == 3:
            logits = _of_size(logits, targets.shape[1:])
        return logits.movedim(1, -1), _counted(targets)

    right = usual.no_share

    def predictions(self, answer: Answer, targets: NDArray[Any] | None) -> Predictions:
        """Return the class of each pixel, (N, H, W) uint8; 254 where logits are no numbers."""
        found: Predictions = class_maps(one_output(answer, names=NAMES), self._size)
        return found

    expected = usual.targets_as_they_are
    log_likelihoods = usual.no_likelihoods
    metrics = usual.by_metrics
    agreement = usual.agreement_by_metrics

    def unreadable(self, predictions: Predictions, *, what: str = "items") -> str | None:
        bad = np.flatnonzero((predictions == MOST_CLASSES).reshape(len(predictions), -1).any(1))
        if not len(bad):
            return None
        return (
            f"logits in {len(bad)} of {len(predictions)} {what} are NaN or infinite, which is no "
            f"class (the first, counted from 0: {bad[0]})"
        )

    def item_scores(self, predictions: Predictions, expected: Predictions) -> NDArray[np.float64]:
        """Return the share of each item's pixels that get their class, of those that count."""
        counts = (expected != IGNORED).sum(axis=(1, 2))
        right = ((predictions == expected) & (expected != IGNORED)).sum(axis=(1, 2))
        scores: NDArray[np.float64] = right[counts > 0] / counts[counts > 0]
        return scores

    def score(self, metrics: Mapping[str, float]) -> float:
        return metrics["segmentation.miou"]


def _two_classes(logits: Tensor) -> Tensor:
    """Return one channel, of a class and none, as the logits of two classes."""
    import torch

    return torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits


def _of_size(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    # Logits, not masks, are brought to size: thin objects vanish from smaller masks.
    from torch.nn import functional

    if logits.shape[2:] == size:
        return logits
    return functional.interpolate(logits, size, mode="bilinear")


def _counted(targets: Tensor) -> Tensor:
    true = targets.long()
    return true.masked_fill(true == IGNORED, NOT_COUNTED)


def _masks(y: NDArray[Any], where: str, size: tuple[int, ...]) -> tuple[NDArray[np.uint8], str]:
    told = f"{where}: masks {tuple(y.shape)} of {y.dtype}"
    if y.ndim == 4 and y.shape[1] == 1:
        y = y[:, 0]
    if y.dtype.kind not in "biu" or y.ndim != 3:
        raise DataError(
            f"{told}: segmentation takes class indices (N, height, width)",
            hint="colours must become indices: one number a pixel, 255 where it counts nowhere",
        )
    if y.shape[1:] != size:
        raise DataError(
            f"{told} for images of {size[0]}x{size[1]}",
            hint="resize masks with the images, by the nearest neighbour",
        )
    if len(y) and (y.min() < 0 or y.max() > IGNORED):
        item = int(((y < 0) | (y > IGNORED)).reshape(len(y), -1).any(axis=1).argmax())
        raise DataError(
            f"{told} hold {y[item].min()} to {y[item].max()} at item {item}",
            hint=f"classes count from 0, and a pixel that counts nowhere is {IGNORED}",
        )
    return np.ascontiguousarray(y, np.uint8), ""


def _names(given: Any, parts: Parts, where: str) -> tuple[str, ...]:
    """Return the classes' names, as given or counted in the training masks."""
    if given is not None and not isinstance(given, int):
        return tuple(str(name) for name in given)
    y = parts.train.y
    if y.ndim != 3:
        return tuple(map(str, range(given or 0)))
    known = y[y != IGNORED]
    if not len(known):
        raise DataError(
            f"train part of {where}: every pixel of the masks is {IGNORED}, so nothing is learned",
            hint="label some pixels with a class from 0",
        )
    return tuple(map(str, range(given or max(2, int(known.max()) + 1))))


def _check_range(parts: Parts, classes: tuple[str, ...], where: str) -> None:
    if len(classes) > MOST_CLASSES:
        raise DataError(
            f"{where}: {len(classes)} classes, segmentation has {MOST_CLASSES} at most",
            hint="join rare classes",
        )
    for name, split in parts.named():
        if split.y.ndim != 3:
            continue
        wrong = (split.y >= len(classes)) & (split.y != IGNORED)
        if wrong.any():
            item, row, column = np.argwhere(wrong)[0]
            raise DataError(
                f"{name} part of {where}: class {split.y[item, row, column]} at item {item}, pixel "
                f"({row}, {column}) is out of range, there are {len(classes)} classes",
                hint=f"give the number of `classes`, or {IGNORED} where a pixel counts nowhere",
            )
