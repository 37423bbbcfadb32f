"""Finished measurements, kept so that no rerun makes them again.

What was measured in the same rounds is one folder, under a key of everything that its numbers
depend on. It is written aside and renamed: a kill at any moment leaves nothing or a whole one.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from kdeploy.bench.model_under_test import Configuration, ModelUnderTest, Outcome
from kdeploy.bench.plan import Plan
from kdeploy.bench.serialization import plain, restored
from kdeploy.data.load import load
from kdeploy.machine import Machine
from kdeploy.measurement import Measurement
from kdeploy.runtimes.files import files_of
from kdeploy.store.artifact import artifact_id, disk_error, file_sha256, sync
from kdeploy.system.temporary import locked_folder, sweep

FACTS, ARRAYS = "group.json", "arrays.npz"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelGroup:
    """Models that take turns in a configuration: one alone, or all that are compared."""

    models: Sequence[ModelUnderTest]
    configuration: Configuration
    with_accuracy: bool
    teacher: str | None = None
    """Label of the model beside whose answers those of the others are judged, token by token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What came of a group, and when."""

    outcomes: Sequence[Outcome]
    created: str

    def dated(self, records: Sequence[Measurement]) -> list[Measurement]:
        """Return records as of the time of measuring."""
        return [replace(record, created=self.created) for record in records]


def finished_now(outcomes: Sequence[Outcome]) -> Finished:
    """Return outcomes with the time of now."""
    return Finished(outcomes=outcomes, created=datetime.now(UTC).isoformat(timespec="seconds"))


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCache:
    """A folder of finished groups, of one plan on one machine; several processes may share it."""

    folder: Path | None
    """None keeps nothing."""
    plan: Plan
    machine: Machine
    _sums: dict[Path, str] = field(default_factory=dict)
    """Of each file, read once: a large one is in many groups."""

    def get(self, group: ModelGroup) -> Finished | None:
        """Return what came of the group, None when it is not here or not whole."""
        if self.folder is None:
            return None
        folder = self.folder / self._key(group)
        try:
            facts = json.loads((folder / FACTS).read_text())
            with (folder / ARRAYS).open("rb") as file, np.load(file) as stored:
                arrays = [stored[f"a{index}"] for index in range(len(stored.files))]
            outcomes = [
                _outcome(model, group.configuration, fields, arrays)
                for model, fields in zip(group.models, facts["outcomes"], strict=True)
            ]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        except (MemoryError, zipfile.BadZipFile):
            return None
        return Finished(outcomes=outcomes, created=str(facts["created"]))

    def put(self, group: ModelGroup, finished: Finished) -> None:
        """Keep it, in the place of an older one."""
        if self.folder is None:
            return
        target = self.folder / self._key(group)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            sweep(".partial-", self.folder)
            with locked_folder(".partial-", self.folder) as partial:
                (whole := partial / target.name).mkdir()
                _write(group, finished, whole)
                shutil.rmtree(target, ignore_errors=True)
                whole.rename(target)
        except OSError as error:
            if not (target / FACTS).is_file():  # else another process has kept the same just now
                raise disk_error(error, self.folder) from error

    def _key(self, group: ModelGroup) -> str:
        return artifact_id(
            {
                # By name too: two copies of a file are measured twice, as whoever made them wants.
                "files": [[s.name, self._sum(s.path)] for s in group.models],
                "cell": asdict(group.configuration),
                "with_accuracy": group.with_accuracy,
                # Left out where there is none: what was kept before counts.
                **({} if group.teacher is None else {"teacher": group.teacher}),
                "plan": {"data": None, **self.plan.of_one_cell()},
                "data": load(self.plan.data).fingerprint if self.plan.data else None,
                "conditions": conditions(self.machine),
            }
        )

    def _sum(self, path: Path) -> str:
        if path not in self._sums:
            self._sums[path] = contents_sha256(path)
        return self._sums[path]


def _write(group: ModelGroup, finished: Finished, folder: Path) -> None:
    arrays: list[Any] = []
    facts = {
        "cell": str(group.configuration),
        "subjects": [model.name for model in group.models],
        "created": finished.created,
        "outcomes": [plain(_seen(outcome), arrays) for outcome in finished.outcomes],
    }
    np.savez_compressed(folder / ARRAYS, **{f"a{i}": a for i, a in enumerate(arrays)})
    (folder / FACTS).write_text(json.dumps(facts, indent=1))
    for name in (FACTS, ARRAYS):
        sync(folder / name)


def conditions(machine: Machine) -> dict[str, Any]:
    """Return what else times depend on: the hardware, and the versions of all that runs on it."""
    return {"id": machine.id, "driver": machine.driver, "versions": dict(machine.versions)}


def contents_sha256(path: Path) -> str:
    """Return the checksum of a file with what belongs to it, or of all files of a folder."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else files_of(path)
    sums = {os.path.relpath(file, path.parent): file_sha256(file) for file in files}
    return next(iter(sums.values())) if len(sums) == 1 else artifact_id(sums)


def _seen(outcome: Outcome) -> Mapping[str, Any]:
    """Return the fields that were measured: model and configuration are whoever asks again's."""
    names = (
        name for name in Outcome.__dataclass_fields__ if name not in ("model", "configuration")
    )
    return {name: getattr(outcome, name) for name in names}


def _outcome(
    model: ModelUnderTest,
    configuration: Configuration,
    fields: Mapping[str, Any],
    arrays: Sequence[Any],
) -> Outcome:
    return Outcome(model=model, configuration=configuration, **restored(Outcome, fields, arrays))
