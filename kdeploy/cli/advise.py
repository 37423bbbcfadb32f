"""`kdeploy advise`: two or three recipes to try first, each with the evidence for it."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from kdeploy.advise.run import Advice
    from kdeploy.progress.screen import Screen


def advise(
    model: Annotated[str, typer.Argument(help="A model reference, an artefact or `onnx:FILE`.")],
    target: Annotated[
        list[str] | None,
        typer.Option("--target", help="'latency.p50: <= 5ms', 'size: 4x'; repeat for more."),
    ] = None,
    out: Out = Path("runs/advise"),
    weights: Weights = None,
    as_built: AsBuilt = False,
    model_args: Annotated[str, typer.Option("--args", help="YAML, for a model reference.")] = "{}",
    inputs: Inputs = None,
    data: Data = None,
    data_dir: DataDir = None,
    task: TaskOption = None,
    json: Json = False,
    debug: Debug = False,
) -> Result:
    """Say which recipes to try first, and why.

    Reads the model, measures for about a minute (as it is, in INT8, at half
    width, smaller builds untrained), and writes two or three recipes to OUT,
    the most promising first. Nothing is trained; the test part is not touched.
    """
    from kdeploy.cli.given import check_model
    from kdeploy.gate import parse_gates

    check_model(model)
    targets = parse_gates(target or [], where="--target")
    from kdeploy.advise.run import advise as advise_on
    from kdeploy.cli.output import out as console
    from kdeploy.progress.terminal import Terminal

    source = source_of(
        {
            "artifact": model,
            "weights": weights,
            "as_built": as_built,
            "model_args": model_args,
            "inputs": inputs,
            "data": data,
            "data_dir": data_dir,
            "task": task,
        }
    )
    advice = advise_on(source, targets, out, Terminal())
    _show(console(is_json=json), advice)
    return Result({"out": str(out), **advice.to_dict()})


def _show(screen: Screen, advice: Advice) -> None:
    screen.print()
    for note in advice.notes:
        screen.print(f"{note}")
    for number, one in enumerate(advice.recipes, start=1):
        expected = one.expected
        speed, smaller, lost = expected.speed_up, expected.smaller, expected.lost
        kind = "mean latency" if expected.is_mean_only else "latency"
        screen.print()
        screen.print(f"{number}. {one.rule.title}")
        screen.print(
            f"   expected: {kind} {speed[0]:.1f} to {speed[1]:.1f}x lower, size {smaller[0]:.1f} to"
            f" {smaller[1]:.1f}x smaller, accuracy {-100 * lost[1]:+.1f} to {-100 * lost[0]:+.1f}"
            f" pp; chance of all targets by these ranges {one.promise:.0%}"
        )
        for sentence in one.why:
            screen.print(f"   - {sentence}")
        screen.print(f"   kdeploy run {quote(str(one.file))}")
