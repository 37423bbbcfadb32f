"""Measure artefacts and ONNX files side by side, judge their gates, draw the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdeploy.bench.cache import contents_sha256
from kdeploy.bench.inputs import ends_of
from kdeploy.bench.plan import BenchPlan
from kdeploy.bench.run import BenchInterrupted, BenchResult, ModelUnderTest
from kdeploy.bench.ssh.hosts import Host
from kdeploy.data.data_files import with_tokenizer
from kdeploy.data.load import DataReference
from kdeploy.errors import InputError
from kdeploy.gate import Gate, Verdict, judge
from kdeploy.measurement import Measurement
from kdeploy.onnx_graph.input_fitting import Declared, declared_file, fitted_file, parse_inputs
from kdeploy.pipeline.artifact_data import data_of, say_of_other_data
from kdeploy.pipeline.bundles import model_of_bundle
from kdeploy.pipeline.choose import target_configuration
from kdeploy.pipeline.exporting import model_under_test
from kdeploy.pipeline.log import RunListener
from kdeploy.pipeline.measuring import make_measurements, result_of
from kdeploy.pipeline.on_hosts import bench_on_hosts
from kdeploy.pipeline.onnx_trial import check_runs
from kdeploy.pipeline.outside_files import message_of_inputs
from kdeploy.pipeline.rundir import write_command, write_measurements, write_reports
from kdeploy.pipeline.session import Session
from kdeploy.pipeline.single import Source, exported_file, import_one, session_of
from kdeploy.report.comparison import Comparison
from kdeploy.runtimes.files import format_of
from kdeploy.runtimes.run import formats_of, named
from kdeploy.store.artifact import Artifact, find_artifact, no_file
from kdeploy.store.transformers_models import brings_weights, tokenizer_source
from kdeploy.system.temporary import temporary_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What measuring came to."""

    records: list[Measurement]
    comparison: Comparison
    comparisons: list[dict[str, Any]]
    verdicts: list[Verdict]


def bench_side_by_side(
    references: Sequence[str],
    plan: BenchPlan,
    out: Path,
    *,
    baseline: str | None,
    gates: Sequence[Gate],
    data: DataReference | None,
    inputs: Sequence[str] = (),
    hosts: Sequence[Host] = (),
    listener: RunListener,
    use_cache: bool = True,
    command: Sequence[str] = (),
) -> Measured:
    """Measure into `out`; a torch artefact is exported first where a runtime wants a file.

    What is finished is kept there: the same command goes on after it, and another one measures
    only what is new to it. After Ctrl-C the measurements in `out` are those that were finished.

    Args:
        references: Artefacts (folders or ids), bundles, ONNX files, and models that bring their
            weights, `transformers:DIR` and `gguf:FILE`.
        plan: Runtimes, batch sizes, threads, how long.
        out: The folder for measurements and report.
        baseline: What all are compared with, a reference too.
        gates: What each but the baseline must hold, on the first runtime and batch size asked for.
        data: For ONNX files, which know none; artefacts know theirs.
        inputs: Sizes that files leave open, `NAME=1,3,224,224[:dtype]`.
        hosts: Other machines to measure on, side by side, instead of this one.
        listener: Who is told.
        use_cache: Whether what was measured before counts.
        command: What was typed, for the report to say how to repeat it.
    """
    names = [*([baseline] if baseline else []), *(r for r in references if r != baseline)]
    for name in names:
        data = data and with_tokenizer(data, tokenizer_source(name, Path()))
    found = [_found(name, out, data, listener) for name in names]
    labels = _labels(found)
    declared = parse_inputs(inputs, where="--input")
    files = [f if isinstance(f, Path) else f.path for f in found if not isinstance(f, Artifact)]
    _check_files(files, plan)
    artifacts = [f for f in found if isinstance(f, Artifact)]
    known = (data_of(artifact) for artifact in artifacts)
    session = session_of(out, data or next((d for d in known if d is not None), None), listener)
    say_of_other_data(session, artifacts)
    if command:
        write_command(out, command)
    label = labels[0] if baseline else None
    session.use_cache = use_cache
    with temporary_folder("declared") as folder:
        is_read = _reads_files(plan)
        fitted = _fitted(session, found, declared, folder) if is_read else found
        models = [
            replace(s, label=label)
            for f, label in zip(fitted, labels, strict=True)
            for s in _models(session, f, plan)
        ]
        if is_read:
            _say_of_made_inputs(session, fitted)
        if hosts:
            away = bench_on_hosts(session, models, plan, hosts, out, baseline=label)
            records, comparisons, drawn = away.records, away.comparisons, away.drawn
        else:
            result = _measured_here(session, models, plan, out, baseline=label)
            records, comparisons = result.measurements, result.comparisons
            with session.files():
                write_measurements(out, result)
                drawn = write_reports(out, baseline=label)
    verdicts = _judge(gates, records, labels, label, plan)
    return Measured(records=records, comparison=drawn, comparisons=comparisons, verdicts=verdicts)


def _fitted(
    session: Session,
    found: Sequence[Artifact | ModelUnderTest | Path],
    given: Mapping[str, Declared],
    folder: Path,
) -> list[Artifact | ModelUnderTest | Path]:
    """Return the same, with copies of files that take something else than the data give.

    Without data, of those whose inputs somebody named sizes of.
    """
    if given and not any(isinstance(f, Path) for f in found):
        raise InputError(
            "`--input` is for ONNX files from elsewhere, and none is measured",
            hint="artefacts and bundles know their inputs: leave it out",
        )
    copies: list[Artifact | ModelUnderTest | Path] = []
    for number, one in enumerate(found):
        copies.append(one)
        if not isinstance(one, Path) or format_of(one) != "onnx":
            continue
        copy = folder / f"{number}" / one.name
        copy.parent.mkdir()
        if session.data is not None:
            form = session.data.preprocessing
            for sentence in fitted_file(one, copy, form, given, closes=False):
                session.listener.message(f"{one.name}: {sentence}")
        elif given:
            declared_file(one, copy, given)
        copies[-1] = copy if copy.is_file() else one
    return copies


def _say_of_made_inputs(
    session: Session, found: Sequence[Artifact | ModelUnderTest | Path]
) -> None:
    """Tell what files from elsewhere are given where data do not say it."""
    for file in (f for f in found if isinstance(f, Path)):
        model = ModelUnderTest(artifact="", label="", path=file, format=format_of(file))
        ends = ends_of(model)
        if ends.inputs and (session.data is None or len(ends.inputs) > 1):
            has_data = session.data is not None
            session.listener.message(message_of_inputs(file, ends, has_data=has_data))


def _measured_here(
    session: Session,
    models: Sequence[ModelUnderTest],
    plan: BenchPlan,
    out: Path,
    *,
    baseline: str | None,
) -> BenchResult:
    try:
        return result_of(make_measurements(session, models, plan, baseline=baseline))
    except BenchInterrupted as stop:
        with session.files():
            write_measurements(out, stop.result)
        raise


def _found(
    reference: str, out: Path, data: DataReference | None, listener: RunListener
) -> Artifact | ModelUnderTest | Path:
    if brings_weights(reference, Path()):
        return import_one(Source(reference=reference, data=data), out, listener)
    bundle = model_of_bundle(reference, out)
    if bundle is not None:
        return bundle
    artifact = find_artifact(reference)
    if artifact is not None:
        return artifact
    path = Path(reference.removeprefix("onnx:"))
    if path.is_file():
        return path
    raise no_file(reference)


def _label(found: Artifact | ModelUnderTest | Path) -> str:
    return found.stem if isinstance(found, Path) else found.label


def _labels(found: Sequence[Artifact | ModelUnderTest | Path]) -> list[str]:
    """Return what each is called; of equal names, with where the file lies: `teacher@run2`."""
    labels = [_label(f) for f in found]
    for name in {label for label in labels if labels.count(label) > 1}:
        places = [index for index, label in enumerate(labels) if label == name]
        folders = _differing([_place(found[index]) for index in places])
        for index, place in zip(places, folders, strict=True):
            labels[index] = f"{name}@{place}"
    twice = [index for index, label in enumerate(labels) if label in labels[:index]]
    if twice:
        raise InputError(f"`{_place(found[twice[0]])}` is named twice", hint="name each file once")
    return labels


def _place(found: Artifact | ModelUnderTest | Path) -> Path:
    if isinstance(found, Path):
        return found.resolve().parent
    return found.folder.resolve() if isinstance(found, Artifact) else found.path.resolve().parent


def _differing(places: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the folders' names in which all differ, if they do."""
    depths = range(1, 1 + max(len(place.parts) for place in places))
    ends = ([place.parts[-depth:] for place in places] for depth in depths)
    found = next((e for e in ends if len(set(e)) == len(places)), [p.parts for p in places])
    # What all share at the end tells nothing: of a/exports and b/exports, a and b.
    while min(map(len, found)) > 1 and len({e[-1] for e in found}) == 1:
        found = [e[:-1] for e in found]
    return ["-".join(part.strip("/") for part in end) for end in found]


def _check_files(paths: Sequence[Path], plan: BenchPlan) -> None:
    """Refuse what is no model before anything runs, unless no runtime would read it as one."""
    if _reads_files(plan):
        for path in paths:
            if format_of(path) == "onnx":
                check_runs(path)


def _reads_files(plan: BenchPlan) -> bool:
    return any(not named(text)[0].facts.get("opens_anything") for text in plan.runtimes)


def _models(
    session: Session, found: Artifact | ModelUnderTest | Path, plan: BenchPlan
) -> list[ModelUnderTest]:
    if isinstance(found, ModelUnderTest):
        return [found]
    if isinstance(found, Path):
        identity = contents_sha256(found)[:12]
        form = format_of(found)
        return [ModelUnderTest(artifact=identity, label=found.stem, path=found, format=form)]
    asked = [formats_of(r) for r in plan.runtimes]
    models = []
    if found.kind == "torch" and any("torch" in formats for formats in asked):
        models.append(model_under_test(found))
    if found.kind != "torch" or any("torch" not in formats for formats in asked):
        exported = exported_file(session, found)
        models.append(model_under_test(exported.model, exported))
    return models


def _judge(
    gates: Sequence[Gate],
    records: Sequence[Measurement],
    labels: Sequence[str],
    baseline: str | None,
    plan: BenchPlan,
) -> list[Verdict]:
    configuration = target_configuration(plan)
    candidates = [label for label in labels if label != baseline] or labels
    machines = list(dict.fromkeys(r.machine for r in records))
    verdicts = []
    for machine in machines:
        there = [r for r in records if r.machine == machine]
        reference = [r for r in there if r.label == baseline]
        for label in candidates:
            own = [r for r in there if r.label == label]
            found = judge(gates, own, reference, **configuration)
            place = f"{machine}: " if len(machines) > 1 else ""
            verdicts += [replace(v, label=label, reason=place + v.reason) for v in found]
    return verdicts
