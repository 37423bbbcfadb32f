"""From models to files: each behind the parity gate, its numbers as measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdeploy import registry
from kdeploy.bench.run import ModelUnderTest
from kdeploy.errors import ModelError
from kdeploy.export.parity import agreement_in_words
from kdeploy.export.run import bound_to, export
from kdeploy.measurement import Measurement
from kdeploy.pipeline.building import model_of_teacher
from kdeploy.pipeline.exported import Exported, told_apart
from kdeploy.pipeline.failures import Failure, kept_for_later
from kdeploy.pipeline.session import Made, Session
from kdeploy.recipe.resolve import Step
from kdeploy.runtimes.files import format_of, suffixes
from kdeploy.runtimes.run import device_of
from kdeploy.store.artifact import Artifact


def make_export(session: Session, model: Artifact, step: Step) -> Exported:
    """Return the model as a file that passed the parity gate."""
    facts = registry.find("exporter", step.technique).facts
    suffix = facts["suffix"]

    def make(work: Path) -> Made:
        if session.data is None:
            raise ModelError("the parity gate needs data", hint="name it, e.g. `--data digits`")
        metadata = {"kdeploy.store.artifact": model.id, "kdeploy.label": model.label}
        result = export(
            model_of_teacher(model),
            step.technique,
            step.parameters,
            session.data,
            work / "file" / facts.get("file", f"model{suffix}"),
            metadata=metadata,
            artifact=model.folder,
        )
        session.listener.message(
            f"parity of {model.label} holds: largest error {result.max_abs:.2g} of"
            f" {result.bound:.2g} output std allowed, cosine {result.cosine:.6f}"
            + agreement_in_words(result.agreement_metric, result.agreement)
        )
        agreed = {
            "parity.agreement": result.agreement,
            "parity.agreement_metric": result.agreement_metric,
        }
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
                "parity.required_tolerance": result.required_tolerance,
                **(agreed if result.agreement is not None else {}),
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


def model_under_test(model: Artifact, exported: Exported | None = None) -> ModelUnderTest:
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


def _move_all(source: Path, folder: Path, entries: Mapping[str, Any]) -> Mapping[str, Any]:
    for path in source.iterdir():
        path.replace(folder / path.name)
    return entries
