"""`kdeploy compress`: an artefact made smaller, a command a technique."""

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


def compress_app(*, is_asked: bool) -> typer.Typer:
    """Return the group `kdeploy compress`, a command a technique."""
    app = typer.Typer(help="Make an artefact smaller by one technique.")
    if is_asked:
        from kdeploy.cli.techniques import add_commands

        add_commands(app, "compressor", common=_compress_options, run=_compress)
    else:
        app.command("technique", hidden=True)(_compress_options)
    return app


def _compress_options(
    artifact: Annotated[str, typer.Argument(help="An artefact, or a model reference.")],
    out: Out = Path("runs/compress"),
    weights: Weights = None,
    as_built: AsBuilt = False,
    model_args: Annotated[str, typer.Option("--args", help="YAML, for a model reference.")] = "{}",
    inputs: Inputs = None,
    recover: Annotated[
        str | None,
        typer.Option("--recover", help="Fine-tune by distillation, YAML: '{epochs: 3}'"),
    ] = None,
    max_drop: Annotated[
        str | None,
        typer.Option(help="Fail where it costs more validation accuracy, e.g. 0.5pp."),
    ] = None,
    data: Data = None,
    data_dir: DataDir = None,
    task: TaskOption = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Name the arguments of all compressors."""


def _compress(technique: Technique, own: dict[str, Any], common: dict[str, Any]) -> Result:
    from kdeploy.cli.given import check_model

    check_model(common["artifact"])
    from kdeploy.pipeline.single import compress_one
    from kdeploy.progress.terminal import Terminal
    from kdeploy.recipe.read import read_value
    from kdeploy.recipe.resolve import step

    beside = {"recover": read_value(common["recover"])} if common["recover"] else {}
    beside |= {"max_drop": common["max_drop"]} if common.get("max_drop") else {}
    parsed = step({technique.name: {**own, **beside}}, "compress")
    made = compress_one(source_of(common), parsed, common["out"], Terminal())
    show_artifact(made, is_json=common["json"])
    return Result(dict(made.manifest))
