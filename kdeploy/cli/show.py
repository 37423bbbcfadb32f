"""`kdeploy show`: where an artefact comes from, and what is known of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kdeploy.cli.options import Debug, Json
from kdeploy.cli.result import Result

if TYPE_CHECKING:
    from kdeploy.store.artifact import Artifact


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


def show_artifact(artifact: Artifact, *, is_json: bool) -> None:
    """Print an artefact: its history oldest first, then its facts."""
    from kdeploy.cli.output import out as console
    from kdeploy.flags import FLAGS
    from kdeploy.report.step_table import tables_of_step
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
    for said in tables_of_step(artifact.facts):
        screen.table(said.headers or [""] * len(said.rows[0]), said.rows, title=said.topic)
    screen.print(f"folder: {artifact.folder}")
