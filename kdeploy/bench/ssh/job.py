"""What a device is asked to measure: the files that travel, and groups that share conditions."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.bench.inputs import write_pool
from kdeploy.bench.model_under_test import Configuration, ModelUnderTest
from kdeploy.bench.plan import Plan
from kdeploy.bench.ssh.payload_zip import runner
from kdeploy.data.contract import Dataset
from kdeploy.data.load import load
from kdeploy.machine import Machine
from kdeploy.onnx_graph.checks import file_bytes
from kdeploy.store.artifact import file_sha256
from kdeploy.tasks.contract import Task, classification, has_class_rows, task_of

RUNTIME = "onnxruntime_cpu"
ITEMS_BYTES = 32 * 2**20  # of inputs that travel in one file
_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SentItems:
    """The test items that are sent: all, or as many as may travel, drawn at random."""

    items: NDArray[Any]
    targets: NDArray[Any]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceGroup:
    """The files that are measured in turns, under the same conditions."""

    configuration: Configuration
    """`threads` is 0 where all cores of the device are meant."""
    with_accuracy: bool
    pools: tuple[str, ...]
    """The name of each model's inputs; they are one where data are named."""
    input_shapes: tuple[tuple[int, ...], ...]
    """Of an item, a model each."""
    is_real: bool
    unjudged: str = ""
    """Why nothing is judged where it was asked for; "" where it is, or was not asked for."""

    def on(self, machine: Machine) -> DeviceGroup:
        """Return the group as that machine will run it."""
        return replace(
            self,
            configuration=replace(
                self.configuration, threads=self.configuration.threads or machine.cores
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything that one device is asked; the same for all of them."""

    models: Sequence[ModelUnderTest]
    groups: Sequence[DeviceGroup]
    plan: Plan
    files: Mapping[str, Path]
    """What travels, by its name on the device."""
    model_files: Sequence[str]
    """The names of the models' files, in their order."""
    test: SentItems | None
    items: str = ""
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    task: Task = field(default_factory=classification)

    @property
    def name(self) -> str:
        """Of its folder on the device, so that a job that was cut off is found again."""
        conditions = [[str(g.configuration), g.with_accuracy, g.pools] for g in self.groups]
        return _digest(conditions, self.model_files, self.items, self._timing(), _code())

    def key(self, group: DeviceGroup, machine: Machine) -> str:
        """Return what a result is kept under: all that it depends on."""
        where = [machine.id, machine.python, machine.versions.get("onnxruntime"), _code()]
        items = self.items if group.with_accuracy else ""
        return _digest(
            str(group.configuration), group.pools, self.model_files, items, self._timing(), where
        )

    def request(self, groups: Mapping[str, DeviceGroup]) -> bytes:
        """Return `job.json`: the groups still to be measured, by their keys."""
        return json.dumps(
            {
                **self._timing(),
                "items": self.items,
                "preprocessing": dict(self.preprocessing),
                "groups": [
                    {
                        "key": key,
                        "name": str(group.configuration),
                        "batch_size": group.configuration.batch_size,
                        "threads": group.configuration.threads,
                        "with_accuracy": group.with_accuracy,
                        "subjects": self._models(group),
                    }
                    for key, group in groups.items()
                ],
            }
        ).encode()

    def files_for(self, groups: Sequence[DeviceGroup]) -> dict[str, Path]:
        """Return the files that these groups need there."""
        items = [self.items] if any(g.with_accuracy for g in groups) else []
        wanted = [*self.model_files, *(pool for g in groups for pool in g.pools), *items]
        return {name: self.files[name] for name in dict.fromkeys(wanted)}

    def _models(self, group: DeviceGroup) -> list[dict[str, str]]:
        files = zip(self.models, self.model_files, group.pools, strict=True)
        return [{"name": s.name, "file": file, "pool": pool} for s, file, pool in files]

    def _timing(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "rounds": plan.rounds,
            "round_seconds": plan.window_seconds,
            "round_count": math.ceil(plan.minimum_count / plan.rounds),
            "window_seconds": plan.window_seconds,
            "limit_seconds": plan.warm_up_limit_seconds,
            "timeout_seconds": plan.timeout_seconds,
        }


def job_of(models: Sequence[ModelUnderTest], plan: Plan, folder: Path) -> Job:
    """Return the job; what travels and is no file yet is written into `folder`.

    Raises:
        ModelError: a file cannot be read, or nothing says how large its input is.
        DataError: the data cannot be used.
    """
    files: dict[str, Path] = {}

    def add(path: Path) -> str:
        name = f"file-{file_sha256(path)}{path.suffix}"
        files.setdefault(name, path)
        return name

    model_files = [add(_in_one_file(s.path, folder / f"{n}.onnx")) for n, s in enumerate(models)]
    dataset = load(plan.data) if plan.data is not None else None
    is_judged = plan.accuracy and dataset is not None and dataset.test.is_labelled
    unjudged = _unjudged(dataset) if is_judged and dataset is not None else ""
    test = _test(dataset) if is_judged and dataset is not None and not unjudged else None
    items = add(_saved(folder / "items.npy", test.items)) if test is not None else ""
    groups = []
    swept = itertools.product(plan.item_sizes, plan.batch_sizes, plan.threads)
    for number, (size, batch_size, count) in enumerate(swept):
        names, shapes = [], []
        for side, model in enumerate(models):
            file = folder / f"pool-{number}-{side}.npy"
            pool = write_pool(model, plan.data, batch_size=batch_size, size=size, file=file)
            names.append(add(file))
            shapes.append(pool.shape)
        groups.append(
            DeviceGroup(
                configuration=Configuration(
                    runtime=RUNTIME, batch_size=batch_size, threads=count or 0, size=size
                ),
                with_accuracy=test is not None and number == 0,
                pools=tuple(names),
                input_shapes=tuple(shapes),
                is_real=dataset is not None,
                unjudged=unjudged if number == 0 else "",
            )
        )
    known = dataset.preprocessing.to_dict() if dataset is not None else {}
    return Job(
        models=models,
        groups=groups,
        plan=plan,
        files=files,
        model_files=model_files,
        test=test,
        items=items,
        preprocessing=known,
        task=classification() if dataset is None else task_of(dataset),
    )


def _unjudged(data: Dataset) -> str:
    """Return why a device cannot answer for a task: it reads the class of each row of logits."""
    name = task_of(data).name
    if data.preprocessing.inputs:
        return "a device is sent items of one input, and these have several"
    if has_class_rows(name):
        return ""
    return f"a device sends classes home, and answers of task `{name}` are none"


def _test(data: Dataset) -> SentItems:
    """Return the items of the test part that travel, as they are stored."""
    total = len(data.test)
    one = np.asarray(data.test.x[:1])
    count = min(total, max(1, ITEMS_BYTES // one.nbytes))
    # Drawn, because files often keep their classes one after the other.
    drawn = np.random.default_rng(_SEED).choice(total, count, replace=False)
    rows = np.sort(drawn) if count < total else np.arange(total)
    return SentItems(
        items=np.asarray(data.test.x[rows]), targets=np.asarray(data.test.y)[rows], total=total
    )


def _in_one_file(path: Path, target: Path) -> Path:
    """Return the file, or a copy that holds what lies in files beside it."""
    if file_bytes(path) == path.stat().st_size:
        return path
    import onnx

    onnx.save(onnx.load(path), target)
    return target


def _saved(path: Path, array: NDArray[Any]) -> Path:
    np.save(path, array)
    return path


def _code() -> str:
    return hashlib.sha256(runner()).hexdigest()


def _digest(*facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:16]
