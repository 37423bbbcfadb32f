"""What a dataset is: parts with labels, and the one preprocessing that everything uses.

A dataset is a function `(*, own parameters) -> Parts`, decorated with `@dataset`. It uses numpy
only, so that a device without torch can load it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray

from kdeploy.preprocessing import Preprocessing
from kdeploy.registration import register

__all__ = [
    "NOT_COUNTED",
    "AsGiven",
    "Dataset",
    "Parts",
    "Preprocessing",
    "Split",
    "TargetReader",
    "TaskReference",
    "dataset",
]

NOT_COUNTED = -100
"""The label of a token that is neither learned nor judged, as torch's cross-entropy has it."""
Loaded = TypeVar("Loaded", bound=Callable[..., "Parts"])


def dataset() -> Callable[[Loaded], Loaded]:
    """Return the decorator of a dataset."""

    def mark(function: Loaded) -> Loaded:
        return register("dataset")(function)

    return mark


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Items as stored (N, *shape), uint8 or float32, or token ids (N, tokens); and their targets.

    The ids are int32 or int64. What a target is, is known by the task alone: a class (N,), a class
    for every token (N, tokens), numbers (N, D), a mask (N, H, W). The first axis is the item; what
    is of variable length is filled up with a value that the task names. Items that nobody labelled
    have `NOT_COUNTED`, (N,).

    `x` may be larger than memory: then it is memory-mapped, or a `kdeploy.data.rows.Rows` of such
    a file. Index it (`x[a:b]`, `x[rows]`) rather than take it whole. Items of several inputs are a
    `kdeploy.named_arrays.NamedArrays`, arrays called as the parameters of `forward`; the
    preprocessing then has `inputs`.
    """

    x: NDArray[Any]
    y: NDArray[Any]
    origin: str = ""
    """The file or folder that the items come from, for messages."""
    targets_origin: str = ""
    """Where the targets come from, for messages; "" for the part's name."""

    @property
    def is_labelled(self) -> bool:
        """Whether any item, or token, has a target: else nothing can be trained or judged."""
        return bool((self.y != NOT_COUNTED).any())

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, slots=True, kw_only=True)
class AsGiven:
    """Targets that nobody has looked at yet: the task reads them."""

    classes: Sequence[str] | int | None = None
    """Names of classes, or their number; None where the targets are to tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a dataset function returns."""

    train: Split
    test: Split
    preprocessing: Preprocessing
    validation: Split | None = None
    """None: it is split off train later."""
    unlabelled: NDArray[Any] | None = None
    """Further items, of the same shape and type, that INT8 is calibrated on; None: train's."""
    licence: str = ""
    source: str = ""
    fingerprint: str = ""
    """Of all contents, where the dataset knows it already; else the loader reads them."""
    notes: tuple[str, ...] = ()
    """What people should know: what was left out, converted or laid on something."""
    as_given: AsGiven | None = None
    """None: the dataset has read its targets, and named the classes in the preprocessing."""

    def named(self) -> list[tuple[str, Split]]:
        """Return all parts with their names."""
        named = [("train", self.train), ("test", self.test), ("validation", self.validation)]
        return [(name, split) for name, split in named if split is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReference:
    """Which task the targets are for; `path.py:Task` for one of the user's own."""

    name: str = "classification"
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return {"name": self.name, "parameters": dict(self.parameters)}


class TargetReader(Protocol):
    """What data ask of a task; all else that it knows is for those who train and judge."""

    def read_targets(self, parts: Parts, *, where: str) -> Parts:
        """Return the parts with targets as the task stores them, and what is to know of them.

        Raises:
            DataError: a target cannot be; it names the part, the item and what was found.
        """
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return the task with all that it found in the training targets, as JSON has it."""
        ...


def places_of(task: TargetReader | None, train: Split) -> bool | None:
    """Return whether the targets lie in the item, and move where it moves; None: nobody says.

    Classes do where there is one for each step of an item.
    """
    if not train.is_labelled:
        return False
    if is_of_items(task):
        return train.y.ndim > 1
    facts = getattr(task, "facts", None)
    said: bool | None = getattr(task, "moves", None if facts is None else facts.get("moves", False))
    return said


def is_of_items(task: TargetReader | None) -> bool:
    """Return whether this is the task of data that name none: classes of items."""
    return task is None or getattr(task, "name", "") == TaskReference().name


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Loaded data. `test` is touched only for reported numbers."""

    name: str
    train: Split
    validation: Split
    test: Split
    preprocessing: Preprocessing
    fingerprint: str
    augment: tuple[str, ...] = ()
    licence: str = ""
    source: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What people should know of it, a sentence each."""
    unlabelled: NDArray[Any] | None = None
    """Items to calibrate on in place of those of train."""
    is_validation_given: bool = False
    """Whether the validation part came with the data; else it was split off train."""
    task: TargetReader | None = None
    """What targets and outputs mean; None: classes. `kdeploy.tasks.contract.task_of` has it."""

    @property
    def moves(self) -> bool:
        """Whether targets have places in the image, which augmentations must move along."""
        return bool(places_of(self.task, self.train))

    @property
    def num_classes(self) -> int:
        return len(self.preprocessing.classes)
