"""From models to what is delivered: exported files, what is measured of them, the bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy import registry
from kdeploy.bench.run import ModelUnderTest
from kdeploy.errors import ModelError
from kdeploy.export.run import bound_to, export
from kdeploy.gate import Gate
from kdeploy.machine import fingerprint
from kdeploy.measurement import Measurement
from kdeploy.package.run import package
from kdeploy.package.verify import VerifyResult, verify
from kdeploy.pipeline.building import model_of_teacher
from kdeploy.pipeline.exported import Exported, told_apart
from kdeploy.pipeline.failures import Failure, kept_for_later
from kdeploy.pipeline.session import Made, Session
from kdeploy.preprocessing import Inputs
from kdeploy.recipe.resolve import Step
from kdeploy.runtimes.files import format_of, suffixes
from kdeploy.runtimes.run import device_of, open_runtime
from kdeploy.store.artifact import Artifact

GOLDEN_ITEMS = 8
BUNDLE = "bundle"


def make_export(session: Session, model: Artifact, step: Step) -> Exported:
    """Return the model as a file that passed the parity gate."""
    suffix = registry.find("exporter", step.technique).facts["suffix"]

    def make(work: Path) -> Made:
        if session.data is None:
            raise ModelError("the parity gate needs data", hint="name it, e.g. `--data digits`")
        metadata = {"kdeploy.store.artifact": model.id, "kdeploy.label": model.label}
        result = export(
            model_of_teacher(model),
            step.technique,
            step.parameters,
            session.data,
            work / "file" / f"model{suffix}",
            metadata=metadata,
        )
        session.audience.said(
            f"parity of {model.label} holds: largest error {result.max_abs:.2g} of"
            f" {result.bound:.2g} output std allowed, cosine {result.cosine:.6f}, top-1 agreement"
            f" {result.agreement:.1%}"
        )
        return Made(
            write=lambda folder: _move_all(
                work / "file", folder, {"model_artifact": model.id, "file": result.path.name}
            ),
            facts={
                "size": result.size_bytes,
                "opset": result.opset,
                "parameters": model.facts.get("parameters"),
                "macs": model.facts.get("macs"),
                "parity.runtime": result.runtime,
                "parity.max_abs": result.max_abs,
                "parity.bound": result.bound,
                "parity.cosine": result.cosine,
                "parity.agreement": result.agreement,
                "parity.required_tolerance": result.required_tolerance,
            },
        )

    file = session.step(
        kind=suffixes()[suffix],
        stage="export",
        technique=step.technique,
        label=model.label,
        make=make,
        parents=[model],
        parameters=step.parameters,
        source=bound_to(step.technique),
    )
    return Exported(model=model, file=file)


def make_exports(
    session: Session, model: Artifact, steps: Sequence[Step], failures: list[Failure]
) -> list[Exported]:
    """Return the files of a model; one that came as a file is also that file.

    What cannot be exported is kept as a failure, and the rest goes on.
    """
    is_file = model.kind == "onnx"
    files = [Exported(model=model, file=model)] if is_file else []
    for step in steps:
        if not (is_file and step.technique == "onnx"):
            with kept_for_later(failures, "export", step.technique, model.label):
                files.append(make_export(session, model, step))
    return told_apart(files)


def subject(model: Artifact, exported: Exported | None = None) -> ModelUnderTest:
    """Return what is measured: a torch model itself, or a file of it."""
    return ModelUnderTest(
        artifact=model.id,
        label=model.label,
        path=exported.file.file if exported else model.folder,
        format=format_of(exported.file.file) if exported else "torch",
        stage=str(model.manifest["stage"]),
        technique=str(model.manifest["technique"]),
        profile=exported.profile if exported else "",
        parameters=model.facts.get("parameters"),
        macs=model.facts.get("macs"),
    )


def parity_records(exported: Exported) -> list[Measurement]:
    """Return the parity gate's numbers as measurements."""
    facts = exported.file.facts
    return [
        Measurement(
            artifact=exported.model.id,
            label=exported.model.label,
            metric=metric,
            value=facts[metric],
            stage=str(exported.model.manifest["stage"]),
            technique=str(exported.model.manifest["technique"]),
            runtime=str(facts.get("parity.runtime", "onnxruntime_cpu")),
            device=device_of(str(facts.get("parity.runtime", "onnxruntime_cpu"))),
            profile=exported.profile,
            machine=str(exported.file.manifest["machine"]),
            created=str(exported.file.manifest["created"]),
        )
        for metric in ("parity.max_abs", "parity.cosine")
        if facts.get(metric) is not None
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a bundle says of its file beside what the file itself knows."""

    name: str
    """Of the recipe, or of the folder that the user asked for."""
    accuracy: Mapping[str, Any]
    """By metric; those of the baseline as `baseline`."""
    latency: Mapping[str, Any] = field(default_factory=dict)
    """The p50 in seconds and where it was measured; differs a little each time, so no part of what
    a bundle is known by."""
    chosen_because: str


def make_bundle(
    session: Session, exported: Exported, budgets: Sequence[Gate], about: About
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
    about: About,
) -> VerifyResult:
    """Write the bundle of a file to `out`, a folder or zip; return what verifying it found."""
    if session.data is None:
        raise ModelError("a bundle needs data", hint="name it, e.g. `--data digits`")
    file = exported.file.file
    inputs = session.data.preprocessing.apply(session.data.validation.x[:GOLDEN_ITEMS])
    package(
        file,
        out,
        manifest=exported.file.manifest,
        golden=(inputs, outputs_of(file, inputs)),
        name=about.name,
        accuracy={**about.accuracy, **about.latency},
        budgets=budgets,
        chosen_because=about.chosen_because,
    )
    return verify(out)


def outputs_of(file: Path, inputs: Inputs) -> NDArray[np.float32]:
    """Return what ONNX Runtime computes from preprocessed inputs."""
    runtime = open_runtime("onnxruntime_cpu", file, threads=1)
    try:
        return runtime.infer(inputs)
    finally:
        runtime.close()


def _move_all(source: Path, folder: Path, entries: Mapping[str, Any]) -> Mapping[str, Any]:
    for path in source.iterdir():
        path.replace(folder / path.name)
    return entries


def _move(source: Path, target: Path, entries: Mapping[str, Any]) -> Mapping[str, Any]:
    source.replace(target)
    return entries
