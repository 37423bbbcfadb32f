"""`kdeploy dynamic`: several files as one model that decides by its input, a command a kind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdeploy.cli.options import Data, DataDir, Debug, Json, Out, TaskOption, data_reference
from kdeploy.cli.result import Result
from kdeploy.cli.show import show_artifact

if TYPE_CHECKING:
    from kdeploy.registry import Technique


def dynamic_app(*, is_asked: bool) -> typer.Typer:
    """Return the group `kdeploy dynamic`, a command a kind."""
    app = typer.Typer(help="Several files as one model that answers easy items early.")
    if is_asked:
        from kdeploy.cli.techniques import add_commands

        add_commands(app, "dynamic", common=_options, run=_make)
    else:
        app.command("kind", hidden=True)(_options)
    return app


def _options(
    files: Annotated[
        list[str], typer.Argument(help="Artefacts or ONNX files; all of them, smallest first.")
    ],
    risk: Annotated[
        str, typer.Option("--risk", help="Items that may be wrong only because they left early.")
    ] = "0.5pp",
    confidence: Annotated[
        float, typer.Option("--confidence", help="That the risk is kept; below 1.")
    ] = 0.9,
    out: Out = Path("runs/dynamic"),
    data: Data = None,
    data_dir: DataDir = None,
    task: TaskOption = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Name the arguments of all kinds."""


def _make(technique: Technique, own: dict[str, Any], common: dict[str, Any]) -> Result:
    from kdeploy.cli.given import check_files
    from kdeploy.recipe.dynamic import promise

    check_files(common["files"])
    wanted = promise(common["risk"], common["confidence"], where="dynamic")
    from kdeploy.pipeline.dynamic import dynamic_of_files
    from kdeploy.pipeline.rundir import place_of
    from kdeploy.progress.terminal import Terminal

    made = dynamic_of_files(
        common["files"],
        technique.name,
        {p.name: own[p.name] for p in technique.parameters if own[p.name] != p.default},
        wanted,
        common["out"],
        data_reference(common["data"], common["data_dir"], task=common["task"]),
        Terminal(),
    )
    show_artifact(made.file, is_json=common["json"])
    file = place_of(made, common["out"])
    return Result({"file": str(file), **made.file.manifest})
