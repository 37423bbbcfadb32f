"""Targets that are classes: one an item, or one a token; read, named and checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.contract import Parts, Split
from kdeploy.data.labels import classes_of, labels_of
from kdeploy.errors import DataError


def labelled_parts(parts: Parts, *, where: str) -> Iterator[tuple[str, Split, str]]:
    """Yield the name, the items and the place, for messages, of each part that has targets."""
    for part, split in parts.named():
        if split.y.ndim != 1 or split.is_labelled:
            place = f"{part} part of {where}" + (f" ({split.origin})" if split.origin else "")
            yield part, split, place


def read_classes(parts: Parts, *, where: str) -> Parts:
    """Return the parts with labels as int64, and the names of the classes.

    Raises:
        DataError: something is no class; it names the part, what was found and what to change.
    """
    known = parts.preprocessing
    tokens = known.num_tokens
    places = {part: place for part, _, place in labelled_parts(parts, where=where)}
    named = dict(parts.named())
    read = {
        part: labels_of(split.y, where=split.targets_origin or places.get(part, ""), tokens=tokens)
        for part, split in named.items()
        if part in places or parts.as_given is not None
    }
    if parts.as_given is not None:
        told = {named[part].targets_origin or part: labels for part, labels in read.items()}
        known = replace(known, classes=tuple(classes_of(parts.as_given.classes, told)))
    # Tokens that come next are ids of the vocabulary, which nobody names one by one.
    of_vocabulary = not known.classes and named["train"].y.ndim == 2
    count = known.vocabulary if of_vocabulary else len(known.classes)
    if places and count < 2:
        raise DataError(
            f"{where}: found {count} class, classification needs two or more",
            hint="add the other classes, to train as well as to test",
        )
    for part, place in places.items():
        _check_range(read[part].y, count, place)
    splits = {p: replace(s, y=read[p].y) if p in read else s for p, s in named.items()}
    notes = [labels.note for labels in read.values() if labels.note]
    notes += _classes_without_items(splits["train"], known.classes, where)
    return replace(
        parts,
        train=splits["train"],
        test=splits["test"],
        validation=splits.get("validation"),
        preprocessing=known,
        notes=(*parts.notes, *notes),
        as_given=None,
    )


def _classes_without_items(train: Split, classes: tuple[str, ...], where: str) -> list[str]:
    """Return a sentence if no training item has some class; of tokens, rare ones may be missing."""
    if train.y.ndim == 2 or not train.is_labelled:
        return []
    counts = np.bincount(train.y, minlength=len(classes))
    names = [name for name, count in zip(classes, counts, strict=True) if not count]
    if not names:
        return []
    listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return [f"{where}: {len(names)} of {len(classes)} classes have no training item: {listed}"]


def _check_range(y: NDArray[np.int64], count: int, place: str) -> None:
    largest = int(y.max())
    if largest >= count:
        item = int(y.reshape(len(y), -1).max(axis=1).argmax())
        begins_at_one = y.ndim == 1 and int(y.min()) == 1 and largest == count
        raise DataError(
            f"{place}: label {largest} at item {item} is out of range, there are "
            f"{count} classes: 0..{count - 1}",
            hint="labels begin at 1 here: `y = y - 1`"
            if begins_at_one
            else "add items of that class to train, correct the label, or give the number of "
            f"`classes`: {largest + 1}",
        )
