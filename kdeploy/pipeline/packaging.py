"""From a file to its bundle: what the bundle says of it, and the verdict on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.bench.accuracy import one_or_all
from kdeploy.data.contract import Dataset
from kdeploy.errors import ModelError
from kdeploy.gate import Gate
from kdeploy.machine import fingerprint
from kdeploy.measurement import Measurement, select
from kdeploy.named_arrays import given
from kdeploy.package.emission import Emission
from kdeploy.package.folding import Folding, Surroundings, check_folds, folded
from kdeploy.package.kinds import kind_of, technique_of
from kdeploy.package.run import UNSIGNED, golden_of, package
from kdeploy.package.signatures import Signing
from kdeploy.package.verify import VerifyResult, verify
from kdeploy.pipeline.exported import Exported
from kdeploy.pipeline.session import Made, Session
from kdeploy.runtimes.contract import Given
from kdeploy.runtimes.files import format_of
from kdeploy.runtimes.run import open_runtime
from kdeploy.store.artifact import Artifact
from kdeploy.system.temporary import temporary_folder

GOLDEN_CHOICE = 512  # items, of which a dynamic model has some for each of its parts
GOLDEN_ITEMS = 8  # few, for a bundle is small; several, for one may be right by chance
BUNDLE = "bundle"


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleDescription:
    """What a bundle says of its file beside what the file itself knows."""

    name: str
    """Of the recipe, or of the folder that the user asked for."""
    accuracy: Mapping[str, Any]
    """By metric; those of the baseline as `baseline`."""
    latency: Mapping[str, Any] = field(default_factory=dict)
    """The p50 in seconds and where it was measured; differs a little each time, so no part of what
    a bundle is known by."""
    chosen_because: str
    signing: Signing = UNSIGNED
    """Of a bundle that is asked for by itself; a run signs none."""
    asks_index: bool = False
    """Whether the package index is asked for digests of libraries."""
    folding: Folding | None = None
    """Where the file is to prepare its pictures and read its outputs by itself."""
    emitted: Sequence[Emission] = ()
    """What it brings for the place that it goes to."""


def make_bundle(
    session: Session, exported: Exported, budgets: Sequence[Gate], about: BundleDescription
) -> tuple[Artifact, VerifyResult]:
    """Return the bundle and the verdict on it; a stored one is verified again."""
    verdicts: list[VerifyResult] = []

    def make(work: Path) -> Made:
        bundle = work / BUNDLE
        result = pack(session, exported, bundle, budgets, about)
        verdicts.append(result)
        return Made(
            write=lambda folder: _move(bundle, folder / BUNDLE, {}),
            facts={"passed": result.passed, "checks": result.checks},
        )

    artifact = session.step(
        kind="bundle",
        stage="package",
        technique="bundle",
        label=exported.model.label,
        make=make,
        parents=[exported.file],
        parameters={
            "name": about.name,
            "budgets": [b.text for b in budgets],
            "accuracy": dict(about.accuracy),
            **({"folding": asdict(about.folding)} if about.folding is not None else {}),
            **({"emit": [one.entry for one in about.emitted]} if about.emitted else {}),
        },
        source=fingerprint().id,
    )
    # What a store says of a bundle is no proof of what lies there now.
    return artifact, verdicts[0] if verdicts else verify(artifact.folder / BUNDLE)


def pack(
    session: Session,
    exported: Exported,
    out: Path,
    budgets: Sequence[Gate],
    about: BundleDescription,
) -> VerifyResult:
    """Write the bundle of a file to `out`, a folder or zip; return what verifying it found."""
    if session.data is None:
        raise ModelError("a bundle needs data", hint="name it, e.g. `--data digits`")
    with temporary_folder("folded") as work:
        file, inputs, manifest = _with_golden(session.data, exported.file, about.folding, work)
        _package(file, inputs, manifest, out, budgets, about)
    return verify(out)


def _package(
    file: Path,
    inputs: Given,
    manifest: Mapping[str, Any],
    out: Path,
    budgets: Sequence[Gate],
    about: BundleDescription,
) -> None:
    package(
        file,
        out,
        manifest=manifest,
        golden=golden_of(file, inputs),
        name=about.name,
        accuracy={**about.accuracy, **about.latency},
        budgets=budgets,
        chosen_because=about.chosen_because,
        signing=about.signing,
        asks_index=about.asks_index,
        emitted=about.emitted,
    )


def _with_golden(
    data: Dataset, exported: Artifact, folding: Folding | None, work: Path
) -> tuple[Path, Given, Mapping[str, Any]]:
    """Return the file that is shipped, what it is given as golden items, and its manifest.

    Raises:
        ModelError, ParityFailed: the file cannot be folded, see `folded`.
    """
    file = exported.file
    if folding is None:
        return file, _golden_inputs(data, file), exported.manifest
    known = exported.manifest["data"]
    check_folds(format_of(file), data.preprocessing, data.validation.x[:1].dtype)
    around = Surroundings(
        form=data.preprocessing,
        task=known.get("task") or {},
        items=np.asarray(data.validation.x[:GOLDEN_ITEMS]),
    )
    made = folded(file, work / "model.onnx", around, folding)
    return made.path, made.pixels, {**exported.manifest, "data": {**known, "task": made.task}}


def _golden_inputs(data: Dataset, file: Path) -> Given:
    """Return the first validation items; of a dynamic model some that each part answers."""
    choose = getattr(kind_of(format_of(file)), "golden_rows", None)
    if choose is None:
        known: Given = given(data.preprocessing.apply(data.validation.x[:GOLDEN_ITEMS]))
        return known
    inputs = data.preprocessing.apply(data.validation.x[:GOLDEN_CHOICE])
    rows: list[int] = choose(file, inputs, GOLDEN_ITEMS)
    return inputs[rows]


def outputs_of(file: Path, inputs: Given) -> NDArray[Any] | Mapping[str, NDArray[Any]]:
    """Return what the runtime that a file is shipped for computes from preprocessed inputs."""
    name = technique_of(format_of(file)).facts["runtime"]
    runtime = open_runtime(name, file, threads=1)
    try:
        return one_or_all(runtime.infer(inputs))
    finally:
        runtime.close()


def _move(source: Path, target: Path, entries: Mapping[str, Any]) -> Mapping[str, Any]:
    source.replace(target)
    return entries


def bundle_description(
    chosen: Exported,
    teacher: Artifact,
    records: Sequence[Measurement],
    configuration: Mapping[str, Any],
    *,
    baseline_in: Mapping[str, Any],
    name: str,
    because: str,
) -> BundleDescription:
    """Return what a bundle says, measured in the configuration where its gates are judged.

    The teacher's numbers are those of the configuration `baseline_in`.
    """

    def measured_in(runtime: str) -> list[Measurement]:
        return [r for r in records if r.runtime == runtime and r.value is not None]

    own = [
        r
        for r in measured_in(configuration["runtime"])
        if (r.artifact, r.profile) == (chosen.model.id, chosen.profile)
    ]
    beside = measured_in(baseline_in["runtime"])
    others = [r for r in beside if r.artifact == teacher.id and r not in own]
    accuracy = _values(own, ("accuracy", "agreement", "perplexity"))
    baseline = _values(others, ("accuracy", "perplexity"))
    p50 = next(iter(select(own, "latency.p50", **configuration)), None)
    latency = {"latency.p50": p50.value, "latency measured in": _place(p50)} if p50 else {}
    return BundleDescription(
        name=name,
        accuracy={**accuracy, **({"baseline": baseline} if baseline else {})},
        latency=latency,
        chosen_because=because,
    )


def _values(records: Sequence[Measurement], kinds: tuple[str, ...]) -> dict[str, float | None]:
    return {r.metric: r.value for r in reversed(records) if r.metric.startswith(kinds)}


def _place(record: Measurement) -> str:
    threads = "all threads" if record.threads is None else f"threads {record.threads}"
    return f"{record.runtime}, batch {record.batch_size}, {threads}, n = {record.n}"
