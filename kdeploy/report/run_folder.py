"""Read the folder of a run: the files of the contract, of which only measurements must exist."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdeploy.errors import InputError, RecipeError
from kdeploy.gate import Verdict, parse_gate
from kdeploy.measurement import read
from kdeploy.report.comparison import (
    ComparedPair,
    Lineage,
    LineageStep,
    Ratio,
    ResultsFolder,
    scenario_text,
)
from kdeploy.report.run_files import read_json, unreadable

COMMAND = "command.txt"
LONGEST_COMMAND = 10_000


def read_run(path: Path) -> ResultsFolder:
    """Return what a folder (or a `measurements.jsonl` in one) says.

    Raises:
        FileMissing: there are no measurements.
        DataError: a file is there but cannot be read.
    """
    folder = path if path.is_dir() else path.parent
    records = tuple(read(path))
    machine = read_json(folder / "machine.json", {})
    summary = read_json(folder / "summary.json", {})
    recipe = _recipe(folder / "recipe.yaml")
    stages = {str(s.get("artifact")): s for s in summary.get("stages", [])}
    return ResultsFolder(
        folder=folder,
        name=str(recipe.get("name") or folder.resolve().name),
        records=records,
        machine=str(machine.get("id") or (records[0].machine if records else "")),
        machines=_machines(folder, machine),
        pairs=tuple(_pair(p) for p in read_json(folder / "comparisons.json", [])),
        proofs=tuple(read_json(folder / "proofs.json", [])),
        next_tokens=tuple(read_json(folder / "next_tokens.json", [])),
        lineages=_lineages(folder, stages),
        gates=_gates(summary, recipe),
        packaged=summary.get("packaged"),
        packaged_profile=summary.get("packaged_profile"),
        chosen=summary.get("chosen"),
        chosen_because=str(summary.get("chosen_because") or ""),
        notes=tuple(str(note) for note in summary.get("notes") or ()),
        configuration=summary.get("cell") or {},
        has_summary=bool(summary),
        seeds=summary.get("seeds") or {},
        command=_command(folder, summary, recipe),
    )


def _machines(folder: Path, here: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the fingerprints of `machines/<id>.json`, and that of the run itself."""
    others = {p.stem: read_json(p, {}) for p in sorted((folder / "machines").glob("*.json"))}
    found = {str(facts.get("id") or stem): facts for stem, facts in others.items()}
    return found | ({str(here.get("id") or ""): here} if here else {})


def _recipe(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    from kdeploy.untrusted.yaml_document import yaml_file

    try:
        content = yaml_file(path)
    except RecipeError as error:
        raise unreadable(path, error.message) from None
    return content if isinstance(content, dict) else {}


def _pair(entry: Mapping[str, Any]) -> ComparedPair:
    return ComparedPair(
        label=entry["label"],
        baseline=entry["baseline"],
        runtime=entry["runtime"],
        batch_size=entry.get("batch_size"),
        threads=entry.get("threads"),
        metric=entry["metric"],
        profile=entry.get("profile"),
        scenario=scenario_text(entry.get("scenario", "")),
        input_shape=entry.get("input_shape", ""),
        machine=entry.get("machine", ""),
        ratio=Ratio(
            times=float(entry["ratio"]),
            low=entry.get("low"),
            high=entry.get("high"),
            verdict=str(entry.get("verdict") or ""),
        ),
    )


def _lineages(folder: Path, stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Lineage]:
    found: dict[str, Lineage] = {}
    for path in sorted((folder / "artifacts").glob("*/manifest.json")):
        manifest = read_json(path, {})
        artifact = str(manifest.get("id") or path.parent.name)
        steps = manifest.get("lineage") or [manifest | {"id": artifact}]
        found[artifact] = Lineage(
            artifact=artifact,
            label=str(manifest.get("label") or artifact),
            steps=tuple(_step(step, stages) for step in steps),
        )
    return found


def _step(step: Mapping[str, Any], stages: Mapping[str, Mapping[str, Any]]) -> LineageStep:
    stage = stages.get(str(step.get("id")), {})
    return LineageStep(
        id=str(step.get("id") or ""),
        label=str(step.get("label") or ""),
        stage=str(step.get("stage") or ""),
        technique=str(step.get("technique") or ""),
        parameters=step.get("parameters") or {},
        facts=step.get("facts") or {},
        scores=step.get("scores") or {},
        wall_time_seconds=stage.get("wall_time_s"),
        is_cached=bool(stage.get("cached")),
    )


def _gates(summary: Mapping[str, Any], recipe: Mapping[str, Any]) -> tuple[Verdict, ...]:
    """Return the verdicts; a metric without a value failed, and so did one that nobody judged."""
    judged = {str(g.get("gate")): g for g in summary.get("gates") or []}
    wanted = recipe.get("gates")
    for gate in wanted if isinstance(wanted, list) else []:
        judged.setdefault(str(gate), {"reason": "not judged: the run did not come that far"})
    return tuple(
        Verdict(
            gate=gate,
            value=entry.get("value"),
            passed=bool(entry.get("passed")) and not _is_missing(gate, entry.get("value")),
            reason=str(entry.get("reason") or ""),
        )
        for gate, entry in judged.items()
    )


def _is_missing(gate: str, value: Any) -> bool:
    """Say whether a metric was not measured; checks of a bundle need no number."""
    try:
        parse_gate(gate)
    except InputError:
        return False
    return value is None


def _command(folder: Path, summary: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    if summary.get("command"):
        return str(summary["command"])
    if (folder / COMMAND).is_file():
        return (folder / COMMAND).read_text(errors="replace")[:LONGEST_COMMAND].strip()
    if not recipe:
        return ""
    return (
        f"kdeploy run {shlex.quote(str(folder / 'recipe.yaml'))} --out {shlex.quote(str(folder))}"
    )
