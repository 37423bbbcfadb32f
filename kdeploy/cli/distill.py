"""`kdeploy distill`: a student from a teacher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from kdeploy.cli.options import (
    DATA_HELP,
    CsvLog,
    DataDir,
    Debug,
    Devices,
    Json,
    NumNodes,
    Out,
    TaskOption,
    TensorBoard,
    named_only,
)
from kdeploy.cli.result import Result
from kdeploy.cli.show import show_artifact


def distill_command(*, is_asked: bool) -> Callable[..., Any]:
    """Return `kdeploy distill` with a flag for each option of a distillation."""
    if not is_asked:
        return named_only(distill)
    from kdeploy.cli.config_flags import with_flags
    from kdeploy.distill.config import DistillConfig

    return with_flags(distill, DistillConfig, into="options")


def distill(
    teacher: Annotated[str, typer.Option("--teacher", help="A model reference or an artefact.")],
    student: Annotated[str, typer.Option("--student", help="A model reference.")],
    data: Annotated[str, typer.Option("--data", help=DATA_HELP, metavar="DATA")],
    out: Out = Path("runs/distill"),
    teacher_weights: Annotated[
        Path | None,
        typer.Option("--teacher-weights", help="safetensors, .pt or .pth; else it is trained"),
    ] = None,
    teacher_args: Annotated[
        str, typer.Option("--teacher-args", help="YAML, e.g. '{width: 32}'")
    ] = "{}",
    student_args: Annotated[
        str, typer.Option("--student-args", help="YAML, e.g. '{width: 8}'")
    ] = "{}",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Any key of the recipe: distill.baseline=true")
    ] = None,
    tensorboard: TensorBoard = False,
    csv_log: CsvLog = False,
    devices: Devices = None,
    num_nodes: NumNodes = None,
    data_dir: DataDir = None,
    task: TaskOption = None,
    json: Json = False,
    debug: Debug = False,
    *,
    options: dict[str, Any],
) -> Result | None:
    """Distil a student from a teacher."""
    from kdeploy.recipe.data_text import data_section
    from kdeploy.recipe.read import overridden, read_value
    from kdeploy.recipe.resolve import parse

    weights = {"weights": str(teacher_weights)} if teacher_weights else {}
    given: dict[str, Any] = {
        "name": "distill",
        "data": {**data_section(data), **({"folder": str(data_dir.resolve())} if data_dir else {})},
        **({"task": read_value(task)} if task else {}),
        "teacher": {"build": teacher, "args": read_value(teacher_args), **weights},
        "student": {"build": student, "args": read_value(student_args)},
        "distill": options,
    }
    recipe = parse(overridden(given, overrides or []), folder=Path())
    # Torch comes with these: what is wrong with the words is told before.
    from kdeploy.cli.output import out as screen
    from kdeploy.pipeline.run import run as run_recipe
    from kdeploy.progress.terminal import Terminal
    from kdeploy.training.processes import started

    on_each, machines = started(devices, num_nodes)
    result = run_recipe(
        recipe,
        out,
        until="distill",
        tensorboard=tensorboard,
        csv_log=csv_log,
        devices=on_each,
        num_nodes=machines,
        listener=Terminal(),
    )
    if not result.is_first:
        return None
    if result.student is not None:
        show_artifact(result.student, is_json=json)
    if result.effect is not None:
        screen(is_json=json).print(result.effect.sentence)
    return Result({"out": str(out), **result.summary})
