"""Commands that show: list, show, doctor, recipe-schema; and init, which begins a project."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdeploy.cli.main import Result
from kdeploy.cli.options import Debug, Json

if TYPE_CHECKING:
    from kdeploy.store.artifact import Artifact

STARTER = Path(__file__).parent.parent / "starter"


def list_techniques(
    kind: Annotated[
        str | None, typer.Argument(help="loss, compressor, runtime, ..., or a key of the recipe")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="As the catalogue page.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> Result:
    """List techniques with their parameters."""
    from kdeploy import registry
    from kdeploy.cli.output import out as console
    from kdeploy.cli.screen import write
    from kdeploy.report.catalogue import catalogue

    kinds = registry.kinds_of(kind) if kind else list(registry.FOLDERS)
    found = {k: list(registry.techniques(k).values()) for k in kinds}
    if markdown and not json:
        write(catalogue([t for group in found.values() for t in group]))
    else:
        screen = console(is_json=json)
        for name, group in found.items():
            screen.print("\n", (name, "bold"))
            for technique in group:
                screen.print("  ", (technique.name, "cyan"), f"  {technique.summary}")
                for p in technique.parameters:
                    shown = "required" if p.is_required else repr(p.default)
                    screen.print(f"      {p.name} = {shown}  {p.doc}")
    return Result({k: [_technique(t) for t in group] for k, group in found.items()})


def show(
    artifact: Annotated[str, typer.Argument(help="An artefact: its folder or id.")],
    json: Json = False,
    debug: Debug = False,
) -> Result:
    """Show where an artefact comes from and what is known of it."""
    from kdeploy.errors import FileMissing
    from kdeploy.store.artifact import find_artifact

    found = find_artifact(artifact)
    if found is None:
        raise FileMissing(
            f"`{artifact}` is neither an artefact's folder nor an id",
            hint="name a folder DIR/artifacts/<id>; `kdeploy run` prints the ids",
        )
    show_artifact(found, is_json=json)
    return Result(dict(found.manifest))


def doctor(json: Json = False, debug: Debug = False) -> Result:
    """Show this machine, which runtimes run on it, and what the others lack."""
    from kdeploy.cli.output import out as console
    from kdeploy.machine import doubts_of_packages
    from kdeploy.runtimes.run import states, this_machine

    machine = this_machine().to_dict()
    runtimes, doubts = states(), doubts_of_packages()
    screen = console(is_json=json)
    facts = [[k.replace("_", " "), _text(v)] for k, v in machine.items()]
    screen.table(["machine", ""], facts)
    rows = [[n, "ready" if why is None else f"unavailable: {why}"] for n, why in runtimes.items()]
    screen.print()
    screen.table(["runtime", "state"], rows)
    for doubt in doubts:
        screen.print()
        screen.print(doubt)
    return Result({"machine": machine, "runtimes": runtimes, "doubts": doubts})


def init(
    folder: Annotated[Path, typer.Argument(help="The folder of the new project.")],
    json: Json = False,
    debug: Debug = False,
) -> Result:
    """Begin a project: a model's build.py and a recipe that runs."""
    from kdeploy.cli.output import out as console
    from kdeploy.errors import InputError

    files = sorted(p for p in STARTER.iterdir() if p.is_file())
    taken = [p.name for p in files if (folder / p.name).exists()]
    if taken:
        raise InputError(
            f"{folder} already has {', '.join(taken)}",
            hint="name a new folder; nothing was written",
        )
    folder.mkdir(parents=True, exist_ok=True)
    for path in files:
        shutil.copyfile(path, folder / path.name)
    console(is_json=json).print(
        f"wrote {', '.join(p.name for p in files)} to {folder}\n"
        f"next: kdeploy run {folder / 'recipe.yaml'} --out {folder / 'run'}"
    )
    return Result({"folder": str(folder), "files": [p.name for p in files]})


def recipe_schema(json: Json = False, debug: Debug = False) -> Result:
    """Print the JSON Schema of recipes, for editors."""
    import json as text

    from kdeploy.recipe.schema import json_schema

    schema = json_schema()
    if not json:
        from kdeploy.cli.screen import write

        write(text.dumps(schema, indent=2, default=str))
    return Result(schema)


def show_artifact(artifact: Artifact, *, is_json: bool) -> None:
    """Print an artefact: its history oldest first, then its facts."""
    from kdeploy.cli.output import out as console
    from kdeploy.flags import FLAGS
    from kdeploy.report.step_table import said_by
    from kdeploy.units import format_quantity

    screen = console(is_json=is_json)
    rows = []
    for step in artifact.manifest["lineage"]:
        facts, scores = step["facts"], step["scores"]
        rows.append(
            [
                step["id"],
                step["label"],
                f"{step['stage']} {step['technique']}",
                format_quantity(facts.get("parameters"), "count"),
                format_quantity(facts.get("macs"), "count"),
                format_quantity(scores.get("validation_accuracy"), "fraction")
                + (" *" if scores.get("validation_seen") else ""),
            ]
        )
    headers = ["artefact", "label", "made by", "parameters", "MACs", "validation"]
    screen.table(headers, rows)
    if any(row[-1].endswith("*") for row in rows):
        screen.print(f"* {FLAGS['validation_seen'].meaning}")
    for said in said_by(artifact.facts):
        screen.table(said.headers or [""] * len(said.rows[0]), said.rows, title=said.topic)
    screen.print(f"folder: {artifact.folder}")


def _technique(technique: Any) -> dict[str, Any]:
    return {
        "name": technique.name,
        "summary": technique.summary,
        "facts": {k: sorted(v) if isinstance(v, set) else v for k, v in technique.facts.items()},
        "parameters": [
            {
                "name": p.name,
                "type": p.annotation,
                "default": None if p.is_required else p.default,
                "required": p.is_required,
                "doc": p.doc,
            }
            for p in technique.parameters
        ],
    }


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items() if v is not None) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)
