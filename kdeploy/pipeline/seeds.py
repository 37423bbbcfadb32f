"""The same student under several seeds: how accurate it is on the test part, and how far apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from kdeploy.errors import ModelError
from kdeploy.machine import fingerprint
from kdeploy.measurement import Measurement, read, write
from kdeploy.pipeline.session import Made, Session
from kdeploy.store.artifact import Artifact
from kdeploy.store.model_io import load_model
from kdeploy.tasks.contract import task_of
from kdeploy.training.predict import metrics_on


def over_seeds(
    session: Session, students: Sequence[Artifact], baselines: Sequence[Artifact]
) -> dict[str, Any]:
    """Return what `summary.json` says of the seeds: accuracies in their order, mean and spread."""
    kinds = {"student": students, "baseline": baselines}
    return {
        kind: spread([_test_accuracy(session, model) for model in models])
        for kind, models in kinds.items()
        if models
    }


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return values with their mean and, of two or more, the sample standard deviation."""
    return {
        "accuracy": list(values),
        "mean": fmean(values),
        **({"std": stdev(values)} if len(values) > 1 else {}),
        "n": len(values),
    }


def _test_accuracy(session: Session, model: Artifact) -> float:
    """Return the task's main metric in PyTorch on the test part, measured once and kept."""

    def make(work: Path) -> Made:
        del work
        data = session.data
        if data is None:
            raise ModelError("accuracy needs data", hint="name it, e.g. `--data digits`")
        found = metrics_on(load_model(model), data.test, data.preprocessing, task_of(data))
        record = Measurement(
            artifact=model.id,
            label=model.label,
            metric=next(iter(found)),
            value=next(iter(found.values())),
            stage="distill",
            technique="seeds",
            runtime="torch_eager",
            device="cpu",
            n=len(data.test),
            machine=fingerprint().id,
        )

        def write_record(folder: Path) -> Mapping[str, Any]:
            write([record], folder / "measurements.jsonl")
            return {}

        return Made(write=write_record)

    measured = session.step(
        kind="measurements",
        stage="distill",
        technique="seeds",
        label=model.label,
        make=make,
        parents=[model],
    )
    (found,) = read(measured.folder)
    assert found.value is not None, "an accuracy in PyTorch is not skipped"
    return found.value
