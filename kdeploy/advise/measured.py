"""A minute of measuring: the model as it is, in INT8, at half width, and its smaller builds.

Nothing is trained. A network that was not trained is as fast as the trained one, so that speed is
known before anything is learned; accuracy is looked at where it means something: of the model
itself and of INT8, on validation items, never on the test part.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from kdeploy import registry
from kdeploy.bench.plan import BenchPlan
from kdeploy.data.contract import Dataset
from kdeploy.errors import KdeployError
from kdeploy.measurement import Measurement, select
from kdeploy.pipeline.exported import Exported
from kdeploy.pipeline.exporting import model_under_test
from kdeploy.pipeline.measuring import make_measurements, result_of
from kdeploy.pipeline.models import make_teacher
from kdeploy.pipeline.packaging import outputs_of
from kdeploy.pipeline.session import Session
from kdeploy.pipeline.single import exported_file
from kdeploy.pipeline.steps import make_step
from kdeploy.recipe.resolve import ResolvedTeacher, step
from kdeploy.store.artifact import Artifact
from kdeploy.store.references import ModelReference
from kdeploy.tasks.contract import task_of
from kdeploy.training.config import TrainingConfig

SECONDS = 60.0
"""No further variant is begun after so long."""
ALWAYS = ("float", "int8")
"""Without these there is nothing to advise, however busy the machine is."""
ITEMS, CHUNK = 1000, 50
"""Validation items that accuracies are looked at on, and in one call."""
PLAN = {"accuracy": False, "minimum_seconds": 1.0, "minimum_count": 32}
RUNTIME = "onnxruntime_cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One file and what was seen of it."""

    seconds: float
    """Median of one item."""
    size: int
    """Bytes of the file."""
    parameters: int
    right: tuple[bool, ...] = ()
    """Of each validation item that was looked at; () for one that learned nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The variants by name (`float`, `int8`, `half_width`, `half`, `quarter`), and what failed."""

    variants: Mapping[str, Variant] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    """Why a variant was not measured."""
    elapsed_seconds: float = 0.0

    def speed_up(self, name: str, base: str = "float") -> float | None:
        """Return how many times as fast as the base a variant is."""
        if name not in self.variants or base not in self.variants:
            return None
        return self.variants[base].seconds / self.variants[name].seconds

    def lost(self, name: str) -> tuple[float, float] | None:
        """Return by how much less often a variant is right, and the standard error; fractions."""
        one, base = self.variants.get(name), self.variants.get("float")
        if one is None or base is None or not one.right or not base.right:
            return None
        apart = np.asarray(base.right, float) - np.asarray(one.right, float)
        return float(apart.mean()), float(apart.std() / np.sqrt(len(apart)))


def measure(session: Session, model: Artifact, students: Mapping[str, ModelReference]) -> Measured:
    """Return what a minute of measuring has shown.

    Args:
        session: Over the store that keeps the variants.
        model: As it is.
        students: Smaller models by name, timed as they are built.
    """
    started = time.perf_counter()
    made: dict[str, Exported] = {}
    missing: dict[str, str] = {}

    def compressed(technique: str, **given: Any) -> Exported:
        before = made["float"].model if model.kind == "onnx" else model
        entry = {technique: given}
        return exported_file(
            session, make_step(session, before, step(entry, "advise"), f"advise {technique}")
        )

    def built(reference: ModelReference) -> Exported:
        # Trained for no epoch: as its function returns it.
        untrained = ResolvedTeacher(reference=reference, training=TrainingConfig(epochs=0))
        return exported_file(session, make_teacher(session, untrained))

    todo: dict[str, Callable[[], Exported]] = {
        "float": lambda: exported_file(session, model),
        "int8": lambda: compressed("int8_ptq", **_of_file(model)),
        **{name: partial(built, reference) for name, reference in students.items()},
        "half_width": lambda: compressed("prune_channels", ratio=0.5),
    }
    for name, make in todo.items():
        if name not in ALWAYS and time.perf_counter() - started > SECONDS:
            missing[name] = f"the {SECONDS:g} s for measuring were over"
            continue
        try:
            made[name] = make()
        except KdeployError as error:
            if name == "float":
                raise
            missing[name] = error.message
    records = _timed(session, made)
    return Measured(
        variants={
            name: variant
            for name, item in made.items()
            if (variant := _variant(session.data, name, item, records, missing)) is not None
        },
        missing=missing,
        elapsed_seconds=time.perf_counter() - started,
    )


def _of_file(model: Artifact) -> dict[str, Any]:
    known = {p.name for p in registry.find("compressor", "int8_ptq").parameters}
    return {"profile": "cpu"} if "profile" in known and model.kind == "torch" else {}


def _timed(session: Session, made: Mapping[str, Exported]) -> list[Measurement]:
    """Return the records of all files, timed in turns."""
    models = [model_under_test(item.model, item) for item in made.values()]
    plan = BenchPlan.model_validate({**PLAN, "runtimes": [RUNTIME]})
    found = make_measurements(session, models, plan, baseline=models[0].label)
    return result_of(found).measurements


def _variant(
    data: Dataset | None,
    name: str,
    item: Exported,
    records: list[Measurement],
    missing: dict[str, str],
) -> Variant | None:
    own = [r for r in records if r.artifact == item.model.id and r.profile == item.profile]
    timed = next((r for r in select(own, "latency.p50") if r.value is not None), None)
    if timed is None or timed.value is None:
        missing[name] = next((r.skipped for r in own if r.skipped), None) or "it was not timed"
        return None
    has_learned = name in ("float", "int8")
    return Variant(
        seconds=timed.value,
        size=int(item.file.facts.get("size") or item.file.file.stat().st_size),
        parameters=int(item.model.facts.get("parameters") or 0),
        right=_right(data, item) if has_learned and data is not None else (),
    )


def _right(data: Dataset, item: Exported) -> tuple[bool, ...]:
    """Return whether each of the first validation items gets its label."""
    part, task = data.validation, task_of(data)
    if not part.is_labelled or part.y.ndim != 1:
        return ()
    found: list[bool] = []
    for start in range(0, min(ITEMS, len(part)), CHUNK):
        rows = slice(start, min(start + CHUNK, ITEMS, len(part)))
        logits = outputs_of(item.file.file, data.preprocessing.apply(np.asarray(part.x[rows])))
        predicted = np.asarray(task.predictions(logits, None))
        found += (predicted == np.asarray(part.y[rows])).tolist()
    return tuple(found)
