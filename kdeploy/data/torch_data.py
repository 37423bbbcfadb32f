"""Data of a `torch.utils.data.Dataset` or `DataLoader`: items are read from it, targets kept.

An item is (x, y), or a dictionary. Several inputs are a dictionary of arrays, in the place of x or
beside the target, called as the parameters of `forward`; or a tuple in the place of x, which is
given in its order: ((image, vector), y).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.contract import Split
from kdeploy.data.lazy_items import LazyItems, padded
from kdeploy.errors import DataError
from kdeploy.named_arrays import NamedArrays, names_by_place

PARTS = ("train", "test", "validation")
MEMORY_BYTES = 512 * 1024**2
"""Items that take less are kept: reading them again costs more."""
INPUTS, TARGETS = ("x", "image", "images", "input", "inputs", "pixel_values"), (
    "y", "label", "labels", "target", "targets",
)  # fmt: skip
_FORM = (
    "an item is (x, y), or a dictionary with `x` and `y`; arrays, tensors or numbers. Several "
    "inputs are a dictionary of arrays, called as the parameters of `forward`"
)
Inputs = NDArray[Any] | dict[str, NDArray[Any]]


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
    changes = any(not np.array_equal(a, _of(again[0], name)) for name, a in _each(first[0]))
    if changes:
        notes.append(f"{where}: items change each time they are read, as the data set augments")
    size_bytes = sum(array.nbytes for _, array in _each(first[0]))
    keeps = not changes and size_bytes * len(data) <= MEMORY_BYTES
    inputs, targets = [], []
    for place in range(len(data)):
        x, y = _item(data[place], where, place)
        _check_alike(x, first[0], where, place)
        targets.append(y)
        if keeps:
            inputs.append(x)
    if keeps:
        x = _together(inputs)
    else:
        made = {
            name: _lazy(data, name, array, where, is_repeatable=not changes)
            for name, array in _each(first[0])
        }
        x = _as_given(made)
    return Split(x=x, y=_stacked(targets, where), origin=where), notes


def _has_places(data: Any) -> bool:
    return hasattr(data, "__getitem__") and hasattr(data, "__len__")


def _each(x: Inputs) -> list[tuple[str, NDArray[Any]]]:
    return list(x.items()) if isinstance(x, dict) else [("", x)]


def _of(x: Inputs, name: str) -> Any:
    return x.get(name) if isinstance(x, dict) else x


def _as_given(arrays: Mapping[str, Any]) -> Any:
    return arrays[""] if "" in arrays else NamedArrays(dict(arrays))


def _together(items: Sequence[Inputs]) -> Any:
    """Return items that are alike as one array, of several inputs as one for each."""
    names = [name for name, _ in _each(items[0])]
    columns: dict[str, list[Any]] = {name: [_of(item, name) for item in items] for name in names}
    return _as_given({name: np.stack(column) for name, column in columns.items()})


def _lazy(
    data: Any, name: str, first: NDArray[Any], where: str, *, is_repeatable: bool
) -> LazyItems:
    def read(place: int) -> NDArray[Any]:
        return dict(_each(_item(data[place], where, place)[0]))[name]

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
    inputs: list[Inputs] = []
    targets: list[NDArray[Any]] = []
    for number, given in enumerate(data):
        x, y = _item(given, where, number)
        inputs += _taken_apart(x) if is_batched else [x]
        targets += list(y) if is_batched else [y]
        _check_alike(inputs[-1], inputs[0], where, len(inputs) - 1)
    if not inputs:
        raise DataError(
            f"{where} yields no items", hint="a generator is empty after one use: give a data set"
        )
    return Split(x=_together(inputs), y=_stacked(targets, where), origin=where)


def _taken_apart(batch: Inputs) -> list[Inputs]:
    """Return the items of a batch."""
    if not isinstance(batch, dict):
        return list(batch)
    count = len(next(iter(batch.values())))
    return [{name: array[row] for name, array in batch.items()} for row in range(count)]


def _item(given: Any, where: str, place: int) -> tuple[Inputs, NDArray[Any]]:
    if isinstance(given, Mapping):
        y = next((given[key] for key in TARGETS if key in given), None)
        x = _inputs_in(given)
    elif isinstance(given, Sequence) and len(given) == 2 and not isinstance(given, str):
        x, y = given
    else:
        x = y = None
    if x is None or y is None:
        kind = f"keys {sorted(map(str, given))}" if isinstance(given, Mapping) else type(given)
        raise DataError(f"{where}: item {place} is {kind!s:.80}", hint=_FORM)
    if isinstance(x, list | tuple) and x and hasattr(x[0], "shape"):
        x = dict(zip(names_by_place(len(x)), x, strict=True))
    if isinstance(x, Mapping):
        several = {str(name): _input(value, where, place) for name, value in x.items()}
        return several, _array(y, where, place)
    return _input(x, where, place), _array(y, where, place)


def _inputs_in(item: Mapping[Any, Any]) -> Any:
    """Return what of a dictionary is no target: the only input, or all arrays by their names."""
    if "x" in item:
        return item["x"]
    first = next((key for key in INPUTS if key in item), None)
    others = {key: value for key, value in item.items() if key not in TARGETS}
    # A number beside an image is its place or its identity, as a rule.
    arrays = {key: value for key, value in others.items() if len(getattr(value, "shape", ()))}
    if first is not None:
        return item[first] if len(arrays) < 2 else arrays
    return arrays if len(arrays) > 1 else None


def _input(value: Any, where: str, place: int) -> NDArray[Any]:
    made = _array(value, where, place)
    return made.astype(np.float32) if made.dtype == np.float64 else made


def _array(value: Any, where: str, place: int) -> NDArray[Any]:
    detached = value.detach().cpu() if hasattr(value, "detach") else value
    made = np.asarray(detached)
    if made.dtype == object:
        raise DataError(f"{where}: item {place} holds {type(value).__name__}", hint=_FORM)
    return made


def _check_alike(x: Inputs, first: Inputs, where: str, place: int) -> None:
    names, wanted = ([name for name, _ in _each(one)] for one in (x, first))
    if sorted(names) != sorted(wanted):
        raise DataError(
            f"{where}: item {place} has the inputs {_told(names)}, the first {_told(wanted)}",
            hint="yield the same inputs for every item, by the same names",
        )
    for name, of_first in _each(first):
        one = dict(_each(x))[name]
        if one.shape != of_first.shape or one.dtype != of_first.dtype:
            which = f", `{name}`," if name else ""
            raise DataError(
                f"{where}: item {place}{which} is {one.dtype} {one.shape}, the first "
                f"{of_first.dtype} {of_first.shape}",
                hint="bring all items to one shape and type in the data set",
            )


def _told(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" if name else "x alone" for name in names)


def _stacked(targets: Sequence[NDArray[Any]], where: str) -> NDArray[Any]:
    try:
        return padded(targets)
    except ValueError as error:
        raise DataError(
            f"{where}: {error}", hint="targets of one shape, or rows of one width"
        ) from None
