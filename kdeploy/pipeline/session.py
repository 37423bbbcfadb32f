"""One run over one store: makes each step once, finds it again ever after."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdeploy.data.contract import Dataset
from kdeploy.data.load import DataReference
from kdeploy.errors import Unavailable
from kdeploy.machine import fingerprint
from kdeploy.pipeline.log import NullListener, RunListener, StageRecord, noted
from kdeploy.pipeline.unfinished import told_of_the_dead, unfinished
from kdeploy.store.artifact import Artifact, Store, artifact_id
from kdeploy.store.moved_paths import from_here
from kdeploy.system.temporary import sweep_once
from kdeploy.tasks.contract import stored_task
from kdeploy.training.processes import ALONE, Processes
from kdeploy.training.threads import computing_with, free_threads


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a step made: how to write its payload, and what to say of it."""

    write: Callable[[Path], Mapping[str, Any]]
    """Writes into a folder; returns further manifest entries (`model`, ...)."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Session:
    """The store, the data and the record of one run."""

    store: Store
    reference: DataReference | None
    data: Dataset | None
    seed: int = 0
    use_cache: bool = True
    processes: Processes = ALONE
    """Those that make each step together; the first alone stores it."""
    listener: RunListener = field(default_factory=NullListener)
    stages: list[StageRecord] = field(default_factory=list)

    def step(
        self,
        *,
        kind: str,
        stage: str,
        technique: str,
        label: str,
        make: Callable[[Path], Made],
        parents: Sequence[Artifact] = (),
        parameters: Mapping[str, Any] | None = None,
        source: str = "",
    ) -> Artifact:
        """Return the artefact of a step, made by `make(work folder)` unless it is stored.

        Args:
            kind: "torch", "onnx", "measurements" or "bundle".
            stage: The stage of the recipe.
            technique: Its technique.
            label: The name people see.
            make: Does the work; may keep what it wants to go on from in the work folder.
            parents: What the step starts from; the first is the model that is changed.
            parameters: All resolved parameters.
            source: Fingerprint of code or files outside the store that the result depends on.
        """
        facts = {
            "stage": stage,
            "technique": technique,
            "parameters": dict(parameters or {}),
            "parents": [p.id for p in parents],
            "seed": self.seed,
        }
        identity = artifact_id({**facts, "source": source, **self._data_inputs()})
        started = time.perf_counter()
        for line in told_of_the_dead(self._out) if self.processes.is_first else ():
            self.listener.message(line)
        self.listener.stage_started(stage, technique, label)
        with self._lock(identity), noted(self.listener):
            artifact = self._stored(identity)
            is_cached = artifact is not None
            if artifact is None:
                entry = {"id": identity, "kind": kind, "label": label, **facts}
                working = unfinished(self._out, f"{stage} {technique} {label}")
                with computing_with(free_threads()), working:
                    made = make(self.store.work(identity))
                artifact = self._add(entry, made, parents)
        # Also of a stored artefact: its time is what looking it up took.
        record = StageRecord(
            stage=stage,
            technique=technique,
            artifact=identity,
            wall_time_s=round(time.perf_counter() - started, 3),
            cached=is_cached,
            label=label,
        )
        self.stages.append(record)
        self.listener.stage_ended(record)
        return artifact

    def sweep(self) -> None:
        """Remove what killed runs left half-made, here and where the system has such things."""
        self.store.sweep()
        sweep_once()

    def say_of_data(self) -> None:
        """Tell what people should know of the data: what was left out, converted, never changes."""
        for note in self.data.notes if self.data is not None else ():
            self.listener.message(note)

    @property
    def _out(self) -> Path:
        return self.store.root.parent

    def files(self) -> AbstractContextManager[None]:
        """Hold the right to replace the files of the run; two runs of one folder take turns."""
        return self.store.lock("files")

    def _lock(self, identity: str) -> AbstractContextManager[None]:
        """Hold the right to make an artefact, in the first process for all of them."""
        return self.store.lock(identity) if self.processes.is_first else nullcontext()

    def _stored(self, identity: str) -> Artifact | None:
        """Return the artefact if it is stored and counts; all processes see it, or none."""
        if self.processes.is_first:
            if not self.use_cache and identity not in {s.artifact for s in self.stages}:
                self.store.remove(identity)
            artifact = self.store.get(identity)
            self.processes.from_first(artifact is not None)
            return artifact
        return self._of_first(identity) if self.processes.from_first(False) else None

    def _of_first(self, identity: str) -> Artifact:
        artifact = self.store.get(identity)
        if artifact is None:
            raise Unavailable(
                f"process {self.processes.rank} does not see the artefact {identity} in "
                f"{self.store.root}, which the first process has",
                hint="let `--out` be a folder that all machines share",
            )
        return artifact

    def _add(self, entry: dict[str, Any], made: Made, parents: Sequence[Artifact]) -> Artifact:
        with self.processes.in_turn():
            if not self.processes.is_first:
                return self._of_first(entry["id"])
            return self._write(entry, made, parents)

    def _facts(self, stage: str, made: Made) -> dict[str, Any]:
        """Return what is known of a result; the first of a chain also tells of the data."""
        if stage != "teacher" or self.data is None or not self.data.notes:
            return dict(made.facts)
        # Bundles carry a lineage along: where the recipe lay is nobody's business there.
        here = f"{self.reference.folder}{os.sep}" if self.reference is not None else ""
        notes = [note.replace(here, "") if here else note for note in self.data.notes]
        return {**made.facts, "report": {**made.facts.get("report", {}), "data": notes}}

    def _write(self, entry: dict[str, Any], made: Made, parents: Sequence[Artifact]) -> Artifact:
        entry |= {
            "data": self._data_facts(),
            "facts": self._facts(entry["stage"], made),
            "scores": dict(made.scores),
            "machine": fingerprint().id,
        }
        kept = ("id", "label", "stage", "technique", "parameters", "facts", "scores")
        history = list(parents[0].manifest["lineage"]) if parents else []
        entry["lineage"] = [*history, {key: entry[key] for key in kept}]
        return self.store.add(entry, made.write)

    def _data_inputs(self) -> dict[str, Any]:
        """Return what of the data a result depends on."""
        if self.data is None or self.reference is None:
            return {}
        return {
            "data": self.data.fingerprint,
            "augment": list(self.data.augment),
            "validation": self.reference.validation_fraction,
        }

    def _data_facts(self) -> dict[str, Any] | None:
        if self.data is None or self.reference is None:
            return None
        return {
            "name": self.data.name,
            "fingerprint": self.data.fingerprint,
            "preprocessing": self.data.preprocessing.to_dict(),
            "reference": self.reference.to_dict(),
            "folder_from_here": from_here(self.reference.folder, self.store.root / "id"),
            **({"task": task} if (task := stored_task(self.data)) else {}),
            "licence": self.data.licence,
            "source": self.data.source,
            **({"notes": list(self.data.notes)} if self.data.notes else {}),
        }
