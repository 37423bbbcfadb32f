"""`kdeploy export`: an artefact as a file, a command a target."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdeploy.cli.options import (
    AsBuilt,
    Data,
    DataDir,
    Debug,
    Inputs,
    Json,
    Out,
    TaskOption,
    Weights,
    source_of,
)
from kdeploy.cli.result import Result
from kdeploy.cli.show import show_artifact

if TYPE_CHECKING:
    from kdeploy.registry import Technique


def export_app(*, is_asked: bool) -> typer.Typer:
    """Return the group `kdeploy export`, a command a target."""
    app = typer.Typer(help="Write an artefact as a file, behind the parity gate.")
    if is_asked:
        from kdeploy.cli.techniques import add_commands

        add_commands(app, "exporter", common=_export_options, run=_export)
    else:
        app.command("target", hidden=True)(_export_options)
    return app


def _export_options(
    artifact: Annotated[str, typer.Argument(help="An artefact, or a model reference.")],
    out: Out = Path("runs/export"),
    weights: Weights = None,
    as_built: AsBuilt = False,
    model_args: Annotated[str, typer.Option("--args", help="YAML, for a model reference.")] = "{}",
    inputs: Inputs = None,
    data: Data = None,
    data_dir: DataDir = None,
    task: TaskOption = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Name the arguments of all exporters."""


def _export(technique: Technique, own: dict[str, Any], common: dict[str, Any]) -> Result:
    from kdeploy.cli.given import check_model

    check_model(common["artifact"])
    from kdeploy.pipeline.rundir import place_of
    from kdeploy.pipeline.single import export_one
    from kdeploy.progress.terminal import Terminal
    from kdeploy.recipe.resolve import Step

    parsed = Step(technique=technique.name, parameters=own)
    made = export_one(source_of(common), parsed, common["out"], Terminal())
    show_artifact(made.file, is_json=common["json"])
    file = place_of(made, common["out"])
    return Result({"file": str(file), **made.file.manifest})
