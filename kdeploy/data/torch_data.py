"""Data of a `torch.utils.data.Dataset` or `DataLoader`: items are read from it, targets kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.contract import Split
from kdeploy.data.lazy_items import LazyItems, padded
from kdeploy.errors import DataError

PARTS = ("train", "test", "validation")
MEMORY_BYTES = 512 * 1024**2
"""Items that take less are kept: reading them again costs more."""
INPUTS, TARGETS = ("x", "image", "images", "input", "inputs", "pixel_values"), (
    "y", "label", "labels", "target", "targets",
)  # fmt: skip
_FORM = "an item is (x, y), or a dictionary with `x` and `y`; arrays, tensors or numbers"


def is_torch_data(value: Any) -> bool:
    """Return whether something is a torch data set or loader, without importing torch."""
    # By name: to ask `isinstance` torch would have to be imported for every array.
    kinds = {kind.__name__ for kind in type(value).__mro__}
    return bool(kinds & {"Dataset", "DataLoader", "IterableDataset"}) and not isinstance(
        value, np.ndarray
    )


def with_arrays(given: Mapping[str, Any], *, where: str) -> tuple[dict[str, Any], list[str]]:
    """Return a mapping with `x_train` and `y_train` in place of a data set `train`, and so on.

    Args:
        given: What a function of the user's own returned.
        where: Names it in messages.
    """
    made, notes = dict(given), list[str]()
    for part in PARTS:
        if part in given and is_torch_data(given[part]):
            split, told = split_of(made.pop(part), where=f"{where}, {part}")
            made |= {f"x_{part}": split.x, f"y_{part}": split.y}
            notes += told
    return made, notes


def split_of(data: Any, *, where: str) -> tuple[Split, list[str]]:
    """Return a data set or loader as a split, and what people should know.

    Of a loader over a data set with places, the data set is taken: how batches are made is the
    training's. What changes with each reading is read anew each time it is shown.

    Args:
        data: A `Dataset` with places, an `IterableDataset`, or a `DataLoader`.
        where: Names it in messages.

    Raises:
        DataError: it has no items, or items of another form.
    """
    notes = []
    inner = getattr(data, "dataset", None)
    if inner is not None and _has_places(inner):
        notes.append(f"{where}: items come from the loader's data set; batches are the training's")
        data = inner
    if not _has_places(data):
        return _read_once(data, where=where), notes
    if not len(data):
        raise DataError(f"{where} has no items", hint="give items")
    # Read twice: a data set with random transforms gives another item.
    first, again = (_item(data[0], where, 0) for _ in range(2))
    if not np.array_equal(first[1], again[1]):
        raise DataError(
            f"{where}: item 0 has another target each time it is read",
            hint="change items by `augment`, which moves targets along, not in the data set",
        )
    changes = not np.array_equal(first[0], again[0])
    if changes:
        notes.append(f"{where}: items change each time they are read, as the data set augments")
    keeps = not changes and first[0].nbytes * len(data) <= MEMORY_BYTES
    inputs, targets = [], []
    for place in range(len(data)):
        x, y = _item(data[place], where, place)
        _check_alike(x, first[0], where, place)
        targets.append(y)
        if keeps:
            inputs.append(x)
    x = np.stack(inputs) if keeps else _lazy(data, first[0], where, is_repeatable=not changes)
    return Split(x=x, y=_stacked(targets, where), origin=where), notes


def _has_places(data: Any) -> bool:
    return hasattr(data, "__getitem__") and hasattr(data, "__len__")


def _lazy(data: Any, first: NDArray[Any], where: str, *, is_repeatable: bool) -> Any:
    def read(place: int) -> NDArray[Any]:
        return _item(data[place], where, place)[0]

    # A data set of the user's own need not bear several threads.
    return LazyItems(
        read,
        len(data),
        first.shape,
        first.dtype,
        is_threaded=False,
        is_repeatable=is_repeatable,
    )


def _read_once(data: Iterable[Any], *, where: str) -> Split:
    """Return what can only be read from front to back, in memory; batches are taken apart."""
    is_batched = hasattr(data, "batch_size") and data.batch_size is not None
    inputs: list[NDArray[Any]] = []
    targets: list[NDArray[Any]] = []
    for number, given in enumerate(data):
        x, y = _item(given, where, number)
        inputs += list(x) if is_batched else [x]
        targets += list(y) if is_batched else [y]
        _check_alike(inputs[-1], inputs[0], where, len(inputs) - 1)
    if not inputs:
        raise DataError(
            f"{where} yields no items", hint="a generator is empty after one use: give a data set"
        )
    return Split(x=np.stack(inputs), y=_stacked(targets, where), origin=where)


def _item(given: Any, where: str, place: int) -> tuple[NDArray[Any], NDArray[Any]]:
    if isinstance(given, Mapping):
        x = next((given[key] for key in INPUTS if key in given), None)
        y = next((given[key] for key in TARGETS if key in given), None)
    elif isinstance(given, Sequence) and len(given) == 2 and not isinstance(given, str):
        x, y = given
    else:
        x = y = None
    if x is None or y is None:
        kind = f"keys {sorted(map(str, given))}" if isinstance(given, Mapping) else type(given)
        raise DataError(f"{where}: item {place} is {kind!s:.80}", hint=_FORM)
    made = _array(x, where, place)
    if made.dtype == np.float64:
        made = made.astype(np.float32)
    return made, _array(y, where, place)


def _array(value: Any, where: str, place: int) -> NDArray[Any]:
    detached = value.detach().cpu() if hasattr(value, "detach") else value
    made = np.asarray(detached)
    if made.dtype == object:
        raise DataError(f"{where}: item {place} holds {type(value).__name__}", hint=_FORM)
    return made


def _check_alike(x: NDArray[Any], first: NDArray[Any], where: str, place: int) -> None:
    if x.shape != first.shape or x.dtype != first.dtype:
        raise DataError(
            f"{where}: item {place} is {x.dtype} {x.shape}, the first {first.dtype} {first.shape}",
            hint="bring all items to one shape and type in the data set",
        )


def _stacked(targets: Sequence[NDArray[Any]], where: str) -> NDArray[Any]:
    try:
        return padded(targets)
    except ValueError as error:
        raise DataError(
            f"{where}: {error}", hint="targets of one shape, or rows of one width"
        ) from None
