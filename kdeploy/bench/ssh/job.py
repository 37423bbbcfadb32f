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

from kdeploy.bench.energy import WINDOW_SECONDS
from kdeploy.bench.inputs import Pool, write_pool
from kdeploy.bench.model_under_test import Configuration, ModelUnderTest
from kdeploy.bench.plan import Plan
from kdeploy.bench.ssh.device.files import RUNTIMES
from kdeploy.bench.ssh.payload_zip import runner
from kdeploy.data.contract import Dataset
from kdeploy.data.load import load
from kdeploy.machine import Machine
from kdeploy.named_arrays import NamedArrays, in_memory
from kdeploy.onnx_graph.checks import file_bytes
from kdeploy.runtimes.run import named
from kdeploy.store.artifact import file_sha256
from kdeploy.tasks.contract import Task, classification, has_class_rows, task_of

FORMATS = ("onnx", "ort_format", "litert", "executorch")
"""Of files that are whole by themselves, and so can be sent."""
ITEMS_BYTES = 32 * 2**20  # of inputs that travel in one file
_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SentItems:
    """The test items that are sent: all, or as many as may travel, drawn at random."""

    items: NDArray[Any] | NamedArrays
    targets: NDArray[Any]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceGroup:
    """The files that are measured in turns, under the same conditions."""

    configuration: Configuration
    """`threads` is 0 where all cores of the device are meant."""
    with_accuracy: bool
    members: tuple[int, ...]
    """Which of the job's models the runtime opens."""
    pools: tuple[str, ...]
    """The name of each member's inputs; they are one where data are named."""
    made: tuple[Pool, ...]
    """What is known of them."""

    @property
    def runtime(self) -> str:
        return self.configuration.runtime

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
        conditions = [
            [str(g.configuration), g.with_accuracy, g.pools, g.members] for g in self.groups
        ]
        return _digest(conditions, self.model_files, self.items, self._timing(), _code())

    def key(self, group: DeviceGroup, machine: Machine) -> str:
        """Return what a result is kept under: all that it depends on."""
        where = [machine.id, machine.python, sorted(machine.versions.items()), _code()]
        items = [self.items, self.answers] if group.with_accuracy else []
        files = [self.model_files[number] for number in group.members]
        return _digest(str(group.configuration), group.pools, files, items, self._timing(), where)

    @property
    def answers(self) -> str:
        """Return what comes home of each item: its class, or the outputs as they are."""
        is_small = has_class_rows(self.task.name)
        return "classes" if is_small else "outputs"

    @property
    def runtimes(self) -> list[str]:
        """Return the runtimes that are asked for, each once."""
        return list(dict.fromkeys(group.runtime for group in self.groups))

    def request(self, groups: Mapping[str, DeviceGroup]) -> bytes:
        """Return `job.json`: the groups still to be measured, by their keys."""
        return json.dumps(
            {
                **self._timing(),
                "items": self.items,
                "answers": self.answers,
                "preprocessing": dict(self.preprocessing),
                "groups": [
                    {
                        "key": key,
                        "name": str(group.configuration),
                        "runtime": group.runtime,
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
        files = [self.model_files[number] for g in groups for number in g.members]
        wanted = [*files, *(pool for g in groups for pool in g.pools), *items]
        return {name: self.files[name] for name in dict.fromkeys(wanted)}

    def _models(self, group: DeviceGroup) -> list[dict[str, Any]]:
        sides = zip(group.members, group.pools, group.made, strict=True)
        return [
            {
                "name": self.models[number].name,
                "file": self.model_files[number],
                "pool": pool,
                "inputs": [dict(told) for told in made.inputs],
                "state": [dict(told) for told in made.state],
            }
            for number, pool, made in sides
        ]

    def _timing(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "rounds": plan.rounds,
            "round_seconds": plan.window_seconds,
            "round_count": math.ceil(plan.minimum_count / plan.rounds),
            "window_seconds": plan.window_seconds,
            "limit_seconds": plan.warm_up_limit_seconds,
            "timeout_seconds": plan.timeout_seconds,
            "energy_seconds": WINDOW_SECONDS if plan.energy else 0,
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

    model_files = [add(_in_one_file(s, folder / f"{n}.onnx")) for n, s in enumerate(models)]
    dataset = load(plan.data) if plan.data is not None else None
    is_judged = plan.accuracy and dataset is not None and dataset.test.is_labelled
    test = _test(dataset) if is_judged and dataset is not None else None
    items = add(_saved(folder / "items", test.items)) if test is not None else ""
    groups, pools = [], _Pools(models, plan, folder)
    for runtime in (name for name in plan.runtimes if name in RUNTIMES):
        members = tuple(n for n, model in enumerate(models) if opens(runtime, model.format))
        swept = itertools.product(plan.item_sizes, plan.batch_sizes, plan.threads)
        for number, (size, batch_size, count) in enumerate(swept if members else ()):
            made = [pools.of(member, batch_size, size) for member in members]
            groups.append(
                DeviceGroup(
                    configuration=Configuration(
                        runtime=runtime, batch_size=batch_size, threads=count or 0, size=size
                    ),
                    with_accuracy=test is not None and number == 0,
                    members=members,
                    pools=tuple(add(file) for file, _ in made),
                    made=tuple(pool for _, pool in made),
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


def opens(runtime: str, form: str) -> bool:
    """Return whether a runtime opens files of a format."""
    return form in named(runtime)[0].facts["formats"]


class _Pools:
    """The inputs of each model in each batch size, written once for all runtimes and threads."""

    def __init__(self, models: Sequence[ModelUnderTest], plan: Plan, folder: Path) -> None:
        self._models, self._plan, self._folder = models, plan, folder
        self._made: dict[tuple[int, int, tuple[int, ...]], tuple[Path, Pool]] = {}

    def of(self, number: int, batch_size: int, size: tuple[int, ...]) -> tuple[Path, Pool]:
        key = (number, batch_size, size)
        if key not in self._made:
            file = self._folder / f"pool-{len(self._made)}.npy"
            model, data = self._models[number], self._plan.data
            pool = write_pool(model, data, batch_size=batch_size, size=size, file=file)
            self._made[key] = (file, pool)
        return self._made[key]


def _test(data: Dataset) -> SentItems:
    """Return the items of the test part that travel, as they are stored."""
    total = len(data.test)
    count = min(total, max(1, ITEMS_BYTES // in_memory(data.test.x[:1]).nbytes))
    # Drawn, because files often keep their classes one after the other.
    drawn = np.random.default_rng(_SEED).choice(total, count, replace=False)
    rows = np.sort(drawn) if count < total else np.arange(total)
    return SentItems(
        items=in_memory(data.test.x[rows]), targets=np.asarray(data.test.y)[rows], total=total
    )


def _in_one_file(model: ModelUnderTest, target: Path) -> Path:
    """Return the file, or a copy that holds what lies in files beside it."""
    path = model.path
    if model.format != "onnx" or file_bytes(path) == path.stat().st_size:
        return path
    import onnx

    onnx.save(onnx.load(path), target)
    return target


def _saved(path: Path, items: NDArray[Any] | NamedArrays) -> Path:
    if isinstance(items, NamedArrays):
        named_items: dict[str, Any] = {f"item.{name}": x for name, x in items.arrays.items()}
        np.savez(path.with_suffix(".npz"), **named_items)
        return path.with_suffix(".npz")
    np.save(path.with_suffix(".npy"), items)
    return path.with_suffix(".npy")


def _code() -> str:
    return hashlib.sha256(runner()).hexdigest()


def _digest(*facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:16]
