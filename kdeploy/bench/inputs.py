"""The batches that are timed: real test items where data are named, else seeded noise.

Several batches take turns, because a single one stays in the caches as no real input does. They
are few, because they count in the peak memory of the process.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from kdeploy.artifact import open_artifact
from kdeploy.bench import graph_facts
from kdeploy.bench.onnx_facts import item_shape, takes_integers
from kdeploy.bench.subject import Subject
from kdeploy.data.load import DataReference, load
from kdeploy.errors import ModelError
from kdeploy.preprocessing import Inputs, Preprocessing

POOL_BATCHES = 16
POOL_BYTES = 4 * 2**20
_SEED = 0


def write_pool(
    subject: Subject, data: DataReference | None, *, batch_size: int, file: Path
) -> bool:
    """Write the batches, preprocessed, one after the other; return whether they are real."""
    np.save(file, _noise(subject, batch_size) if data is None else _real(data, batch_size))
    return data is not None


def _real(reference: DataReference, batch_size: int) -> Inputs:
    data = load(reference)
    count = _count(data.preprocessing.shape, batch_size)
    stored = np.asarray(data.test.x[:count])
    return data.preprocessing.apply(np.resize(stored, (count, *stored.shape[1:])))


def _noise(subject: Subject, batch_size: int) -> Inputs:
    known = _preprocessing(subject)
    generator = np.random.default_rng(_SEED)
    return known.random(_count(known.shape, batch_size), generator)


def _count(shape: tuple[int, ...], batch_size: int) -> int:
    batch_bytes = batch_size * math.prod(shape) * 4
    return batch_size * max(2, min(POOL_BATCHES, POOL_BYTES // batch_bytes))


def _preprocessing(subject: Subject) -> Preprocessing:
    """Return what the subject itself says of its input: the shape, and the kind of numbers."""
    if subject.format == "onnx":
        if takes_integers(subject.path):
            raise ModelError(
                f"{subject.label} takes token ids, and nothing says how many there are",
                hint="name the data to measure it on (`--data`)",
            )
        return Preprocessing(shape=item_shape(subject.path))
    if subject.format in graph_facts.READERS:
        return Preprocessing(shape=graph_facts.item_shape(subject.path, subject.format))
    if subject.format == "torch":
        data = open_artifact(subject.path).manifest.get("data") or {}
        if known := data.get("preprocessing"):
            return Preprocessing.from_dict(known)
    raise ModelError(
        f"nothing says how large the input of {subject.label} is",
        hint="name the data to measure it on (`--data`)",
    )
