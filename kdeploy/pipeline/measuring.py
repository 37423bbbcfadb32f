"""Measure models and files as a step: an artefact of measurements for each kind of file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from shlex import quote
from typing import Any

from kdeploy.bench.cache import conditions, contents_sha256
from kdeploy.bench.plan import TEST, BenchPlan, Part, plan_for
from kdeploy.bench.run import BenchInterrupted, BenchResult, ModelUnderTest, bench
from kdeploy.errors import ArtifactCorrupt
from kdeploy.measurement import Measurement, read, write
from kdeploy.pipeline.session import Made, Session
from kdeploy.runtimes.files import owner_of
from kdeploy.runtimes.run import formats_of, named, this_machine
from kdeploy.store.artifact import Artifact
from kdeploy.tasks.contract import compares_tokens, task_of
from kdeploy.untrusted.json_document import json_file

# Of finished groups, in the store's work folder: apart from any one step, because another list of
# files or runtimes shares what is in both.
KEPT = "bench"
COMPARISONS, PROOFS = "comparisons.json", "proofs.json"
NEXT_TOKENS = "next_tokens.json"
VALIDATION = "validation.jsonl"


def make_measurements(
    session: Session,
    models: Sequence[ModelUnderTest],
    plan: BenchPlan,
    *,
    baseline: str | None,
    parts: tuple[Part, ...] = TEST,
) -> list[Artifact]:
    """Return the measurements, one artefact for torch models and one for each kind of file.

    Args:
        session: Whose store and data count.
        models: What is measured.
        plan: In which runtimes and how.
        baseline: Label of the model that others are compared with.
        parts: Of the data, on which answers are judged.

    Raises:
        BenchInterrupted: Ctrl-C; its result holds all that was finished.
    """
    made: list[Artifact] = []
    present = list(dict.fromkeys(s.format for s in models))
    for form, group in _groups(present).items():
        chosen = [s for s in models if s.format in group]
        runtimes = [r for r in plan.runtimes if group & _forms(r, present)]
        if chosen and runtimes:
            # A teacher that came as a file is in no comparison of torch models.
            own = plan.model_copy(update={"runtimes": runtimes})
            known = baseline if baseline in {s.label for s in chosen} else None
            try:
                made.append(_measure(session, chosen, own, known, form, parts))
            except BenchInterrupted as stop:
                stop.result = _joined([result_of(made), stop.result])
                raise
    return made


def result_of(artifacts: Sequence[Artifact]) -> BenchResult:
    """Return all that measuring made."""
    return _joined(
        BenchResult(
            measurements=read(artifact.folder),
            comparisons=_lines(artifact.folder / COMPARISONS),
            proofs=_lines(artifact.folder / PROOFS),
            next_tokens=_lines(artifact.folder / NEXT_TOKENS),
            # An earlier version judged on the test part alone.
            validation=read(file) if (file := artifact.folder / VALIDATION).is_file() else [],
        )
        for artifact in artifacts
    )


def reasons_for_nothing(records: Iterable[Measurement]) -> list[str]:
    """Return why nothing at all was measured; none where anything was."""
    measured = [r for r in records if not r.metric.startswith("parity")]
    if any(r.value is not None for r in measured):
        return []
    reasons = (f"{r.label} on {r.runtime}: {r.skipped}" for r in measured if r.skipped)
    return list(dict.fromkeys(reasons)) or ["no runtime opens any of the files"]


def _lines(file: Path) -> list[dict[str, Any]]:
    """Return what a file says, nothing where an earlier version wrote none."""
    lines: list[dict[str, Any]] = json_file(file) if file.is_file() else []
    if not isinstance(lines, list) or not all(isinstance(line, dict) for line in lines):
        raise ArtifactCorrupt(
            f"{file} is no list of records",
            hint=f"remove it, and run again: rm -r {quote(str(file.parent))}",
        )
    return lines


def _joined(results: Iterable[BenchResult]) -> BenchResult:
    whole = BenchResult(measurements=[], comparisons=[])
    for part in results:
        whole.measurements.extend(part.measurements)
        whole.comparisons.extend(part.comparisons)
        whole.proofs.extend(part.proofs)
        whole.next_tokens.extend(part.next_tokens)
        whole.validation.extend(part.validation)
    return whole


def _measure(
    session: Session,
    models: Sequence[ModelUnderTest],
    plan: BenchPlan,
    baseline: str | None,
    form: str,
    parts: tuple[Part, ...],
) -> Artifact:
    def make(work: Path) -> Made:
        try:
            result = bench(
                models,
                # Real inputs are wanted for latency too, even where accuracy is left out.
                plan_for(plan, session.reference, parts),
                baseline=baseline,
                out=work,
                cache_folder=session.store.work(KEPT),
                no_cache=not session.use_cache,
                watch=session.listener.status,
            )
        except BenchInterrupted as stop:
            session.listener.message(stop.text)
            raise

        def write_all(folder: Path) -> Mapping[str, Any]:
            write(result.measurements, folder / "measurements.jsonl")
            (folder / COMPARISONS).write_text(json.dumps(result.comparisons, indent=1))
            (folder / PROOFS).write_text(json.dumps(result.proofs, indent=1))
            if result.next_tokens:
                (folder / NEXT_TOKENS).write_text(json.dumps(result.next_tokens, indent=1))
            if result.validation:
                write(result.validation, folder / VALIDATION)
            if (work / "samples").is_dir():
                (work / "samples").replace(folder / "samples")
            return {}

        return Made(write=write_all)

    parameters = {**plan.model_dump(), "baseline": baseline}
    parameters |= {} if parts == TEST else {"parts": list(parts)}
    if session.data is not None and compares_tokens(task_of(session.data)):
        parameters["next_tokens"] = True  # what an earlier version kept has none
    seen = [[s.artifact, s.label, s.profile, contents_sha256(s.path)] for s in models]
    unavailable = {r: named(r)[0].load().unavailable() for r in plan.runtimes}
    return session.step(
        kind="measurements",
        stage="bench",
        technique=form,
        label="measurements",
        make=make,
        parameters=parameters,
        source=json.dumps([conditions(this_machine()), seen, unavailable], sort_keys=True),
    )


def _groups(present: Sequence[str]) -> dict[str, set[str]]:
    """Return the formats that are measured in turns: those of one runtime are compared in pairs."""
    groups: dict[str, set[str]] = {}
    for form in present:
        owner = owner_of(form)
        twin = next((f for f in groups if owner is not None and owner_of(f) == owner), form)
        groups.setdefault(twin, set()).add(form)
    return groups


def _forms(runtime: str, present: Sequence[str]) -> AbstractSet[str]:
    """Return what a runtime is given; one that opens none of it gets files, to say why not."""
    return formats_of(runtime) & set(present) or {"onnx" if "onnx" in present else present[0]}
