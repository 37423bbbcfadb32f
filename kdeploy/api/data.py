"""Data of a Python session: loaders, data sets and arrays, written once where every step reads."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kdeploy.api import session
from kdeploy.data.contract import NOT_COUNTED, TaskReference
from kdeploy.data.load import DataReference
from kdeploy.data.split import stratified
from kdeploy.data.torch_data import split_of
from kdeploy.errors import DataError
from kdeploy.named_arrays import by_name
from kdeploy.recipe.data_text import data_section
from kdeploy.recipe.resolve import data_reference, task_reference

TEST_FRACTION, SEED = 0.1, 0
FORMS = (
    "give a Data, a recipe's `data:` as a dictionary or text, a Dataset or DataLoader of (x, y), "
    "arrays (x, y), or a dictionary of arrays"
)
Arrays: TypeAlias = dict[str, NDArray[Any]]
log = logging.getLogger("kdeploy.progress")


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What a model learns from, is judged on and is measured with.

    Each part is a `Dataset` or `DataLoader` of (x, y), arrays or tensors (x, y), a dictionary of
    them, or x alone. Several inputs are a dictionary in the place of x, or arrays beside `y` in a
    dictionary, named as the parameters of `forward`. Items are read once, as they come: their
    random transforms are drawn once too; `augment` draws anew in every epoch. Without `test` a
    tenth of train is held out for it.
    """

    train: Any
    validation: Any = None
    """Held out of train where it is left out."""
    test: Any = None
    validation_fraction: float | None = None
    augment: Sequence[str] = ()
    """Augmentations of training batches, in order, as in a recipe."""
    mean: Sequence[float] | Mapping[str, Sequence[float]] | None = None
    """Subtracted from x, one number or one a channel; left out, items are normalised already. Of
    several inputs by name."""
    std: Sequence[float] | Mapping[str, Sequence[float]] | None = None
    classes: Sequence[str] | int | None = None
    """Names of the classes or their number; left out, up to the largest label."""
    task: str | Mapping[str, Any] | None = None
    """What targets and outputs mean, as `task:` of a recipe; left out, classes of items."""

    def section(self) -> dict[str, Any]:
        """Return the keys of a recipe's `data:` that name the same items, written to files."""
        train = _arrays(self.train, "train")
        if self.test is None:
            train, test = _held_out(train)
        else:
            test = _arrays(self.test, "test")
        parts = {"train": train, "test": test}
        if self.validation is not None:
            parts["validation"] = _arrays(self.validation, "validation")
        given = {
            "augment": list(self.augment) or None,
            "validation_fraction": self.validation_fraction,
            "mean": _listed(self.mean),
            "std": _listed(self.std),
            "classes": self.classes if isinstance(self.classes, int) else _listed(self.classes),
        }
        files = {part: str(_written(arrays, part)) for part, arrays in parts.items()}
        return {"name": "arrays", **files, **{k: v for k, v in given.items() if v is not None}}


def section_of(data: Any) -> dict[str, Any]:
    """Return a recipe's `data:` of whatever form the data are given in.

    Raises:
        DataError: it is none of them.
    """
    if isinstance(data, str | Path):
        return data_section(str(data))
    if isinstance(data, Mapping) and isinstance(data.get("name"), str):
        return {str(key): value for key, value in data.items()}
    if not isinstance(data, Data):
        return Data(train=data).section()
    return data.section()


def task_section(data: Any) -> dict[str, Any]:
    """Return a recipe's `task:` of data that say what they mean; else nothing."""
    return {"task": data.task} if isinstance(data, Data) and data.task else {}


def reference_of(data: Any) -> DataReference | None:
    """Return the reference of data in any form; None of None."""
    if data is None or isinstance(data, DataReference):
        return data
    task = task_reference(data.task) if isinstance(data, Data) and data.task else TaskReference()
    return data_reference(section_of(data), Path(), 0, task=task)


def _arrays(given: Any, part: str) -> Arrays:
    """Return the arrays of a part by name: `x` and `y`, or as the dictionary has them."""
    if isinstance(given, Mapping):
        return {str(key): _array(value) for key, value in given.items()}
    if isinstance(given, tuple | list) and len(given) == 2 and isinstance(given[0], Mapping):
        several = {str(name): _array(value) for name, value in given[0].items()}
        return {**several, "y": _array(given[1])}
    if isinstance(given, tuple | list) and len(given) == 2 and _is_array(given[0]):
        return {"x": _array(given[0]), "y": _array(given[1])}
    if _is_array(given):
        x = _array(given)
        return {"x": x, "y": np.full(len(x), NOT_COUNTED, np.int64)}
    if hasattr(given, "__getitem__") or hasattr(given, "__iter__"):
        return _read(given, part)
    raise DataError(f"data, {part}: found a {type(given).__name__}", hint=FORMS)


def _read(given: Any, part: str) -> Arrays:
    """Return what a data set or loader yields; of a loader the data set, in its order."""
    split, _ = split_of(given, where=f"data, {part}")
    inputs = {name or "x": _array(np.asarray(array)) for name, array in by_name(split.x)}
    return {**inputs, "y": _array(np.asarray(split.y))}


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _array(value: Any) -> NDArray[Any]:
    found = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    # NumPy's own default is float64; models here compute in float32.
    return found.astype(np.float32) if found.dtype in (np.float64, np.float16) else found


def _held_out(train: Arrays) -> tuple[Arrays, Arrays]:
    """Return train without, and with only, a tenth of its items."""
    y = train.get("y", next(iter(train.values())))
    # Targets of other kinds have no classes to divide evenly: all items are of one.
    labels = y if y.ndim == 1 and y.dtype.kind in "iu" else np.zeros(len(y), np.int64)
    kept, held = stratified(labels.astype(np.int64), fraction=TEST_FRACTION, seed=SEED)
    log.info("no test part was given: %d of %d items are held out for it", len(held), len(y))
    return ({k: v[kept] for k, v in train.items()}, {k: v[held] for k, v in train.items()})


def _listed(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {str(name): list(value) for name, value in values.items()}
    return None if values is None else list(values)


def _written(arrays: Arrays, part: str) -> Path:
    """Return the file of these arrays in the session's folder; equal ones are one file."""
    # By contents: the same arrays in a second call find the artefacts of the first.
    digest = hashlib.sha256(part.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    file = session.folder() / "data" / f"{part}-{digest.hexdigest()[:16]}.npz"
    if not file.is_file():
        file.parent.mkdir(exist_ok=True)
        partial = file.with_name(f"partial-{file.name}")
        np.savez(partial, **arrays)  # type: ignore[arg-type]
        partial.replace(file)
    return file
