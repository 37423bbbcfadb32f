"""Load data by reference: find it, check it, split validation off train, fingerprint it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from kdeploy import registry
from kdeploy.data.augmentation import check_augmentations
from kdeploy.data.check import checked_parts
from kdeploy.data.contract import Dataset, Parts, Split, TargetReader, TaskReference
from kdeploy.data.lazy_items import LazyItems, sample
from kdeploy.data.mixing import MIXES
from kdeploy.data.moving_augmentation import check_targets, doubts_of_targets
from kdeploy.data.own_function import is_own_function, parts_of
from kdeploy.data.rows import Rows, pieces
from kdeploy.data.split import stratified
from kdeploy.data.statistics import normalized_by
from kdeploy.data.task_by_name import named_task
from kdeploy.errors import DataError, RecipeError
from kdeploy.named_arrays import NamedArrays, by_name
from kdeploy.untrusted.named_path import named_path

VALIDATION_FRACTION = 0.1
FINGERPRINTED = 64
"""So many items tell data apart that are read when asked for; targets are all taken in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataReference:
    """Which data, split and augmented how; all that `load` needs."""

    name: str
    """Of a registered dataset, or `path.py:function`."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    validation_fraction: float = VALIDATION_FRACTION
    augment: tuple[str, ...] = ()
    seed: int = 0
    folder: Path = Path()
    """Where relative paths in `name` and `parameters` start."""
    task: TaskReference = field(default_factory=TaskReference)
    """What the targets mean."""
    normalize: bool = False
    """Whether items that come without a mean and std get those of the training part."""

    def __post_init__(self) -> None:
        if not 0 < self.validation_fraction < 1:
            raise RecipeError(
                f"data.validation_fraction is {self.validation_fraction}",
                hint="the share of train held out, above 0 and below 1, e.g. 0.1",
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them; `from_dict` reads them back."""
        # Left out where it is what it was before there were others: ids stay.
        task = {} if self.task == TaskReference() else {"task": _plain(self.task.to_dict())}
        return {
            "name": self.name,
            **task,
            "parameters": _plain(self.parameters),
            "validation_fraction": self.validation_fraction,
            "augment": list(self.augment),
            "seed": self.seed,
            "folder": str(self.folder),
            # What was stored before it existed reads, and is called, as it was.
            **({"normalize": True} if self.normalize else {}),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> DataReference:
        """Return the reference that `to_dict` wrote."""
        read = {"augment": tuple(fields.get("augment", ())), "folder": Path(fields["folder"])}
        task = {"task": TaskReference(**fields["task"])} if "task" in fields else {}
        return cls(**{**fields, **read, **task})


def load(reference: DataReference) -> Dataset:
    """Return the data, split and checked; the same object for an equal reference in one process.

    Raises:
        UnknownName: no dataset, parameter or augmentation of that name.
        FileMissing: a file or folder is not there.
        DataError: the contents cannot be used; it names the part and what was found.
        Unavailable: the data are not on this machine and cannot be downloaded.
    """
    return _load(json.dumps(reference.to_dict(), sort_keys=True))


@lru_cache(maxsize=2)
def _load(reference_json: str) -> Dataset:
    reference = DataReference.from_dict(json.loads(reference_json))
    parts, parameters = _parts(reference)
    task = named_task(reference.task, folder=reference.folder)
    where = f"data `{reference.name}`"
    parts = checked_parts(parts, where=where, read_targets=task.read_targets)
    _check_augmentations(reference, parts, task)
    parts, told = _normalized(parts, reference)
    told += doubts_of_targets(reference.augment, parts.train, task)
    train, validation = parts.train, parts.validation
    notes = (*parts.notes, *told)
    if validation is None:
        train, validation = _split(parts.train, reference)
    elif reference.validation_fraction != VALIDATION_FRACTION:
        notes += ("data.validation_fraction has no effect: the data bring a validation part",)
    return Dataset(
        name=reference.name,
        train=train,
        validation=validation,
        test=parts.test,
        preprocessing=parts.preprocessing,
        fingerprint=_fingerprint(parts, task, reference.task),
        augment=reference.augment,
        licence=parts.licence,
        source=parts.source,
        parameters=parameters,
        notes=notes,
        unlabelled=parts.unlabelled,
        is_validation_given=parts.validation is not None,
        task=task,
    )


def _parts(reference: DataReference) -> tuple[Parts, dict[str, Any]]:
    if is_own_function(reference.name):
        parts = parts_of(reference.name, reference.parameters, folder=reference.folder)
        return parts, dict(reference.parameters)
    technique = registry.find("dataset", reference.name, where="data")
    resolved = registry.validate(technique.parameters, reference.parameters, where="data")
    placed = {key: _placed(value, reference.folder) for key, value in resolved.items()}
    return technique.load()(**placed), _plain(resolved)


def _placed(value: Any, folder: Path) -> Any:
    """Return a parameter with the paths in it as they lie, relative ones in the folder."""
    if isinstance(value, Path):
        return named_path(value, folder)
    if isinstance(value, dict):
        return {key: _placed(inner, folder) for key, inner in value.items()}
    return value


def _normalized(parts: Parts, reference: DataReference) -> tuple[Parts, tuple[str, ...]]:
    """Return the parts with a mean and std where the reference asks for them, and a sentence."""
    given = (reference.parameters.get(key) for key in ("mean", "std"))
    if not reference.normalize or any(value is not None for value in given):
        return parts, ()
    known, told = parts.preprocessing, []
    own = {name: known.inputs.get(name, known) for name, _ in by_name(parts.train.x)}
    for name, x in by_name(parts.train.x):
        found = normalized_by(x, own[name])
        if found == own[name]:
            continue
        own[name] = found
        mean, std = (", ".join(f"{value:.4g}" for value in v) for v in (found.mean, found.std))
        told.append(
            f"{f'items of `{name}`' if name else 'items'} are normalised by the training part: "
            f"less the mean {mean}, over the deviation {std} (`data.normalize: false` leaves them "
            "as they are)"
        )
    found = replace(known, inputs=own) if known.inputs else own[""]
    return replace(parts, preprocessing=found), tuple(told)


def _check_augmentations(reference: DataReference, parts: Parts, task: TargetReader) -> None:
    if reference.augment and parts.preprocessing.is_tokens:
        raise DataError(
            f"data.augment: `{reference.augment[0]}` changes numbers, and the items are token ids",
            hint="leave `augment` out for text",
        )
    check_augmentations(reference.augment, _augmented_shape(reference, parts))
    check_targets(reference.augment, parts.train, task)


def _augmented_shape(reference: DataReference, parts: Parts) -> tuple[int, ...]:
    """Return the shape of what is augmented: of several inputs that of the only image."""
    known = parts.preprocessing
    if not known.inputs or not reference.augment:
        return known.shape
    mixes = [name for name in reference.augment if name in MIXES]
    if known.image is None or mixes:
        why = (
            f"`{mixes[0]}` mixes items of one input" if mixes else "none of them is the only image"
        )
        raise DataError(
            f"data.augment: items have the inputs {known.told_shape()}, and {why}",
            hint="leave `augment` out, or change items in a `path.py:function`",
        )
    return known.inputs[known.image].shape


def _split(train: Split, reference: DataReference) -> tuple[Split, Split]:
    kept, held_out = stratified(
        train.y, fraction=reference.validation_fraction, seed=reference.seed
    )
    if len(held_out) == 0:
        raise DataError(
            f"data `{reference.name}`: no class of train has two items, so none can be held out "
            "for validation",
            hint="add items to train",
        )
    parts = [
        Split(x=_rows(train.x, rows), y=train.y[rows], origin=train.origin)
        for rows in (kept, held_out)
    ]
    return parts[0], parts[1]


def _rows(x: NDArray[Any], rows: NDArray[np.int64]) -> Any:
    several: object = x
    if isinstance(several, NamedArrays):
        return several.mapped(lambda array: _rows(array, rows))
    # A memory map stays on disk: taking its rows would read all of it into memory.
    held: object = x
    if isinstance(held, Rows):
        return cast("NDArray[Any]", Rows(held.stored, held.order[rows]))
    stays = isinstance(held, np.memmap | LazyItems)
    return cast("NDArray[Any]", Rows(x, rows)) if stays else x[rows]


def _fingerprint(parts: Parts, task: TargetReader, named: TaskReference) -> str:
    """Return the sha256 of all parts, the preprocessing and the task, but for that of classes."""
    digest = hashlib.sha256(json.dumps(parts.preprocessing.to_dict(), sort_keys=True).encode())
    digest.update(parts.fingerprint.encode())
    if named != TaskReference():
        digest.update(json.dumps(task.to_dict(), sort_keys=True, default=str).encode())
    for _, split in parts.named():
        for name, x in by_name(split.x):
            digest.update(f"{name}{x.dtype} {x.shape}".encode())
        if split.y.dtype == np.int64:
            digest.update(np.ascontiguousarray(split.y, dtype="<i8").data)
        else:
            digest.update(f"{split.y.dtype} {split.y.shape}".encode())
            digest.update(np.ascontiguousarray(split.y).data)
        if not parts.fingerprint:
            for _, x in by_name(split.x):
                _take_in(digest, x)
    if parts.unlabelled is not None:
        digest.update(f"unlabelled {parts.unlabelled.shape}".encode())
        if not parts.fingerprint:
            for _, x in by_name(parts.unlabelled):
                _take_in(digest, x)
    return digest.hexdigest()


def _take_in(digest: hashlib._Hash, x: NDArray[Any]) -> None:
    held: object = x
    if isinstance(held, LazyItems):  # to read all of them might take hours
        x = sample(held, FINGERPRINTED) if held.is_repeatable else np.zeros(0)
    for _, piece in pieces(x):
        digest.update(np.ascontiguousarray(piece).data)


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as JSON has them."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(parameters), default=str))
    return plain
