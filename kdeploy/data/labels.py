"""Labels as people have them: taken as classes 0..K-1 and told, or refused by what they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.contract import NOT_COUNTED
from kdeploy.errors import DataError

MOST_CLASSES = 1_000_000  # more is a mistake, and would take all memory
FEW_ITEMS = 10
"""Of fewer, one cannot tell classes from quantities."""
SHOWN = 8  # values in a message
_LEARNS = "`task: classification` learns one class an item, `y` (N,) of integers 0..K-1"
_OTHER_TASKS = (
    f"{_LEARNS}; name the `task:` of these, e.g. `task: segmentation` for masks, "
    "`task: keypoint_heatmaps`, `task: detection` for boxes, or `task: regression`"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Labels as indices, and how they became that."""

    y: NDArray[np.int64]
    note: str = ""
    """What was converted; "" for nothing."""
    num_classes: int | None = None
    """Where the labels themselves say it: the columns of one-hot rows."""


def labels_of(y: NDArray[Any], *, where: str, tokens: int | None = None) -> Labels:
    """Return labels as int64 (N,); of items that are `tokens` long they may be (N, tokens).

    What means the same in one way only is converted: whole numbers in float, True and False,
    (N, 1), exact one-hot rows.

    Raises:
        DataError: they are no classes; it says what they look like.
    """
    if y.dtype.kind not in "biuf":
        raise _no_numbers(y, where)
    if y.ndim == 2 and tokens is not None and y.shape[1] == tokens:
        return Labels(y=_token_labels(y, where))
    if y.ndim == 2 and y.shape[1] == 1:
        column = labels_of(y[:, 0], where=where)
        note = column.note or f"{where}: labels of shape (N, 1) are taken as (N,)"
        return Labels(y=column.y, note=note)
    if y.ndim == 2 and _is_one_hot(y):
        note = f"{where}: one-hot labels {tuple(y.shape)} are taken as the number of their column"
        return Labels(y=y.argmax(1), note=note, num_classes=y.shape[1])
    if y.ndim != 1:
        raise _several_numbers(y, where)
    if y.dtype.kind == "b":
        note = f"{where}: labels False and True are taken as classes 0 and 1"
        return Labels(y=y.astype(np.int64), note=note)
    if y.dtype.kind == "f":
        return _whole(y, where)
    if len(y) and _holds_only(y, (NOT_COUNTED,)):
        return Labels(y=y.astype(np.int64), note=f"{where}: items without labels")
    _refuse_negative(y, where)
    return Labels(y=y.astype(np.int64))


def classes_of(classes: Sequence[str] | int | None, labels: Mapping[str, Labels]) -> list[str]:
    """Return the names of the classes, as given or as the training labels tell.

    Args:
        classes: Names, their number, or None to go by the labels.
        labels: Of each part by its place, train first.

    Raises:
        DataError: the labels do not tell; it says which are missing.
    """
    labels = {place: one for place, one in labels.items() if (one.y != NOT_COUNTED).any()}
    if not labels:
        return [] if classes is None else classes_of(classes, {"": Labels(y=np.zeros(1, np.int64))})
    (where, train), *others = labels.items()
    for place, other in others:
        if (train.num_classes or 0) != (other.num_classes or 0) and classes is None:
            raise DataError(
                f"{place}: labels are {_columns(other)}, those of {where} are {_columns(train)}",
                hint="give all parts the same columns, a class each, or integers in all",
            )
    if isinstance(classes, Sequence) and not isinstance(classes, str):
        return _names(classes, where)
    if classes is None and train.num_classes is None and train.y.ndim == 1:
        _refuse_gaps(train.y, where)
    count = classes if classes is not None else train.num_classes or int(train.y.max(initial=0)) + 1
    if not isinstance(count, int) or not 0 < count <= MOST_CLASSES:
        raise DataError(
            f"{where}: `classes` would be {count!r:.40}",
            hint=f"give the names of the classes or their number, 2 to {MOST_CLASSES}",
        )
    return [str(number) for number in range(count)]


def _names(classes: Sequence[Any], where: str) -> list[str]:
    names = [str(name) for name in classes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"{where}: two classes are called `{twice[0]}`", hint="give each class its own name"
        )
    return names


def _columns(labels: Labels) -> str:
    return f"one-hot of {labels.num_classes}" if labels.num_classes else "integers"


def _is_one_hot(y: NDArray[Any]) -> bool:
    return bool(y.shape[1] > 1 and len(y) and _holds_only(y, (0, 1)) and (y.sum(axis=1) == 1).all())


def _holds_only(y: NDArray[Any], values: tuple[int, ...]) -> bool:
    return bool(np.isin(y, values).all())


def _whole(y: NDArray[Any], where: str) -> Labels:
    broken = np.flatnonzero(~np.isfinite(y))
    if len(broken):
        raise DataError(
            f"{where}: label {y[broken[0]]} at item {broken[0]} is no class",
            hint="drop items without a label: `keep = np.isfinite(y); x, y = x[keep], y[keep]`",
        )
    parted = np.flatnonzero(y != np.round(y))
    if len(parted):
        raise DataError(
            f"{where}: labels are {len(np.unique(y))} different numbers from {y.min():.6g} to "
            f"{y.max():.6g} in {len(y)} items, e.g. {y[parted[0]]:.6g} at item {parted[0]}: "
            "quantities (regression), not classes",
            hint="quantities are learned by `task: regression`; ranges can be classes: "
            "`y = np.digitize(y, bounds)`",
        )
    _refuse_negative(y, where)
    note = f"{where}: {y.dtype} labels are whole numbers, and taken as integers"
    return Labels(y=y.astype(np.int64), note=note)


def _refuse_negative(y: NDArray[Any], where: str) -> None:
    if not len(y):
        return
    if int(y.max()) > np.iinfo(np.int64).max:
        raise DataError(f"{where}: label {y.max()} is no class", hint=_LEARNS)
    if y.min() >= 0:
        return
    if _holds_only(y, (-1, 1)):
        hint = "labels are -1 and 1: make them classes 0 and 1, `y = (y + 1) // 2`"
    elif y.min() in (-1, NOT_COUNTED) and _holds_only(y[y < 0], (int(y.min()),)):
        hint = f"if {y.min():g} means without a label, drop those: `keep = y >= 0; x, y = x[keep], "
        hint += "y[keep]`; INT8 can be calibrated on them as `unlabelled:`"
    else:
        hint = f"classes count from 0; {_NUMBER}"
    raise DataError(
        f"{where}: label {y.min():g} at item {int(y.argmin())} is negative; found {_listed(y)}",
        hint=hint,
    )


def _refuse_gaps(y: NDArray[np.int64], where: str) -> None:
    """Refuse labels that leave out numbers: a class without items would be built for each."""
    values = np.unique(y)
    if not len(values):
        return
    largest, count = int(values[-1]), len(values)
    if len(y) >= FEW_ITEMS and 2 * count > len(y):
        raise DataError(
            f"{where}: {count} different labels in {len(y)} items, from {values[0]} to {largest}: "
            "quantities (regression) or numbers of items, not classes",
            hint=f"{_LEARNS}, quantities `task: regression`; if these are classes, each needs "
            "several items",
        )
    if count == largest + 1:
        return
    if values[0] == 1 and count == largest:
        raise DataError(
            f"{where}: labels begin at 1 ({_listed(y)}); classes count from 0",
            hint="subtract 1 in every part: `y = y - 1`; if class 0 exists and merely has no "
            f"item, say so: `classes: {largest + 1}`",
        )
    missing = next(number for number, value in enumerate([*values, -1]) if number != value)
    raise DataError(
        f"{where}: {count} different labels from {values[0]} to {largest} ({_listed(y)}): no item "
        f"has the label {missing}",
        hint=_NUMBER + (_all_exist(int(largest)) if largest < MOST_CLASSES else ""),
    )


def _all_exist(largest: int) -> str:
    return f"; if all classes up to {largest} exist, say so: `classes: {largest + 1}`"


_NUMBER = (
    "number the labels 0..K-1 in all parts together: `names, y = np.unique(y, return_inverse=True)`"
)


def _listed(y: NDArray[Any]) -> str:
    whole = y.dtype.kind in "iu"
    values = [str(value) if whole else f"{value:g}" for value in np.unique(y)]
    if len(values) <= SHOWN:
        return ", ".join(values)
    return f"{', '.join(values[: SHOWN - 2])}, ..., {values[-1]}"


def _token_labels(y: NDArray[Any], where: str) -> NDArray[np.int64]:
    if y.dtype.kind not in "iu":
        raise DataError(
            f"{where}: labels of tokens must be integers; found {y.dtype} of shape "
            f"{tuple(y.shape)}",
            hint=f"`y = y.astype('int64')`; {NOT_COUNTED} marks a token that does not count",
        )
    wrong = (y < 0) & (y != NOT_COUNTED)
    if wrong.any():
        item, token = np.argwhere(wrong)[0]
        raise DataError(
            f"{where}: label {y[item, token]} at item {item}, token {token} is negative",
            hint=f"classes count from 0; {NOT_COUNTED} marks a token that does not count",
        )
    if len(y) and (y == NOT_COUNTED).all():
        raise DataError(
            f"{where}: every label is {NOT_COUNTED}, so no token counts",
            hint="label the tokens that shall be learned",
        )
    return y.astype(np.int64)


def _no_numbers(y: NDArray[Any], where: str) -> DataError:
    found = f"{where}: labels are {y.dtype} of shape {tuple(y.shape)}"
    if y.dtype.kind in "US" and y.ndim == 1 and len(y):
        text = np.char.decode(y, "utf-8", "replace") if y.dtype.kind == "S" else y
        names = ", ".join(np.unique(text)[:3])
        if np.char.isdigit(text).all():
            return DataError(f"{found}: numbers as text ({names}, ...)", hint="`y = y.astype(int)`")
        return DataError(
            f"{found}: names ({names}, ...), where numbers must be",
            hint=f"{_NUMBER}, and give the names as `classes: [{names}, ...]`",
        )
    return DataError(f"{found}, which are no numbers", hint=_LEARNS)


def _several_numbers(y: NDArray[Any], where: str) -> DataError:
    """Return the error for labels of several numbers an item, by what they look like."""
    found = f"{where}: labels must be one number an item, (N,); found {y.dtype} of shape "
    found += f"{tuple(y.shape)}: "
    if y.ndim == 0:
        return DataError(f"{found}a single number", hint=_LEARNS)
    if y.ndim > 2:
        return DataError(
            f"{found}a map or several points for each item (segmentation, keypoints)",
            hint=_OTHER_TASKS,
        )
    if _holds_only(y, (0, 1)):
        item = int((y.sum(axis=1) != 1).argmax())
        return DataError(
            f"{found}several classes at once (multi-label), {int(y[item].sum())} at item {item}",
            hint="`task: multi_label` learns several classes an item; or train on one column, "
            "`y = y[:, 0]`, or on items of one class",
        )
    if y.dtype.kind == "f" and (y >= 0).all() and np.allclose(y.sum(axis=1), 1, atol=1e-3):
        return DataError(
            f"{found}shares of classes (soft labels), not one class",
            hint="the likeliest class of each item is `y = y.argmax(1)`; soft answers are learned "
            "from a teacher (`distill:`)",
        )
    return DataError(
        f"{found}{y.shape[1]} quantities for each item (boxes, keypoints, regression)",
        hint=_OTHER_TASKS,
    )
