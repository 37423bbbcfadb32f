"""`kdeploy run`: a whole recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdeploy.cli.options import (
    CsvLog,
    DataDir,
    Debug,
    Devices,
    Json,
    NumNodes,
    Out,
    TensorBoard,
)
from kdeploy.cli.result import Result

if TYPE_CHECKING:
    from kdeploy.pipeline.run import RunResult


def run(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    out: Out = Path("runs/latest"),
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key: distill.epochs=10")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option("--until", help="Stop after: teacher distill compress export bench package"),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Make every step anew.")] = False,
    tensorboard: TensorBoard = False,
    csv_log: CsvLog = False,
    devices: Devices = None,
    num_nodes: NumNodes = None,
    data_dir: DataDir = None,
    json: Json = False,
    debug: Debug = False,
) -> Result | None:
    """Run a whole recipe; an interrupted run goes on where it stopped."""
    from kdeploy.errors import UnknownName
    from kdeploy.recipe.read import load
    from kdeploy.recipe.sections import STAGES

    if until is not None and until not in STAGES:
        raise UnknownName.among("stage", until, STAGES)
    folder = [f"data.folder={data_dir.resolve()}"] if data_dir else []
    loaded = load(recipe, [*(overrides or []), *folder])
    # Torch comes with these: what is wrong with the recipe is told before.
    from kdeploy.pipeline.run import run as run_recipe
    from kdeploy.progress.terminal import Terminal
    from kdeploy.training.processes import started

    on_each, machines = started(devices, num_nodes)
    result = run_recipe(
        loaded,
        out,
        until=until,
        use_cache=not no_cache,
        tensorboard=tensorboard,
        csv_log=csv_log,
        devices=on_each,
        num_nodes=machines,
        listener=Terminal(),
    )
    if not result.is_first:
        return None
    _show_run(result, is_json=json)
    if result.failures:
        raise result.failures[0].error
    return Result({"out": str(out), **result.summary}, exit_code=_exit_code(result))


def _exit_code(result: RunResult) -> int:
    from kdeploy.cli.output import show_nothing_measured
    from kdeploy.pipeline.measuring import reasons_for_nothing

    nothing = reasons_for_nothing(result.records) if result.comparison is not None else []
    return show_nothing_measured(nothing) if nothing else 0 if result.passed else 1


def _show_run(result: RunResult, *, is_json: bool) -> None:
    from kdeploy.cli.output import out as console
    from kdeploy.cli.output import show_comparison

    screen = console(is_json=is_json)
    if result.comparison is not None:
        show_comparison(screen, result.comparison, result.verdicts)
        screen.print(f"\nreport: {result.out / 'report.html'}")
    if result.chosen_because:
        screen.print(f"chosen: {result.chosen_because}")
    if result.packaged is not None:
        checks = [v.passed for v in result.verdicts if v.gate.startswith("bundle: ")]
        state = "verified" if all(checks) else "NOT verified: see the checks above"
        screen.print(f"bundle: {result.out / 'bundle'} ({state})")
