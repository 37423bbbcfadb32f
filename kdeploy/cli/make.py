"""Commands that make models and files: run, distill, compress, export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdeploy.cli.main import Result
from kdeploy.cli.options import (
    DATA_HELP,
    AsBuilt,
    CsvLog,
    Data,
    DataDir,
    Debug,
    Devices,
    Inputs,
    Json,
    NumNodes,
    Out,
    TensorBoard,
    Weights,
    data_reference,
    named_only,
    with_inputs,
)

if TYPE_CHECKING:
    from kdeploy.pipeline.run import RunResult
    from kdeploy.registry import Technique
    from kdeploy.store.artifact import Artifact


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
    from kdeploy.cli.output import Terminal
    from kdeploy.pipeline.run import run as run_recipe
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
        audience=Terminal(),
    )
    if not result.is_first:
        return None
    _show_run(result, is_json=json)
    if result.failures:
        raise result.failures[0].error
    return Result({"out": str(out), **result.summary}, exit_code=_exit_code(result))


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
        "teacher": {"build": teacher, "args": read_value(teacher_args), **weights},
        "student": {"build": student, "args": read_value(student_args)},
        "distill": options,
    }
    recipe = parse(overridden(given, overrides or []), folder=Path())
    # Torch comes with these: what is wrong with the words is told before.
    from kdeploy.cli.output import Terminal
    from kdeploy.pipeline.run import run as run_recipe
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
        audience=Terminal(),
    )
    if not result.is_first:
        return None
    if result.student is not None:
        _show_artifact(result.student, is_json=json)
    return Result({"out": str(out), **result.summary})


def distill_command(*, is_asked: bool) -> Callable[..., Any]:
    """Return `kdeploy distill` with a flag for each option of a distillation."""
    if not is_asked:
        return named_only(distill)
    from kdeploy.cli.config_flags import with_flags
    from kdeploy.distill.config import DistillConfig

    return with_flags(distill, DistillConfig, into="options")


def compress_app(*, is_asked: bool) -> typer.Typer:
    """Return the group `kdeploy compress`, a command a technique."""
    app = typer.Typer(help="Make an artefact smaller by one technique.")
    if is_asked:
        from kdeploy.cli.techniques import add_commands

        add_commands(app, "compressor", common=_compress_options, run=_compress)
    else:
        app.command("technique", hidden=True)(_compress_options)
    return app


def export_app(*, is_asked: bool) -> typer.Typer:
    """Return the group `kdeploy export`, a command a target."""
    app = typer.Typer(help="Write an artefact as a file, behind the parity gate.")
    if is_asked:
        from kdeploy.cli.techniques import add_commands

        add_commands(app, "exporter", common=_export_options, run=_export)
    else:
        app.command("target", hidden=True)(_export_options)
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
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Name the arguments of all compressors."""


def _compress(technique: Technique, own: dict[str, Any], common: dict[str, Any]) -> Result:
    from kdeploy.cli.given import check_model

    check_model(common["artifact"])
    from kdeploy.cli.output import Terminal
    from kdeploy.pipeline.single import compress_one
    from kdeploy.recipe.read import read_value
    from kdeploy.recipe.resolve import step

    beside = {"recover": read_value(common["recover"])} if common["recover"] else {}
    beside |= {"max_drop": common["max_drop"]} if common.get("max_drop") else {}
    parsed = step({technique.name: {**own, **beside}}, "compress")
    made = compress_one(_source(common), parsed, common["out"], Terminal())
    _show_artifact(made, is_json=common["json"])
    return Result(dict(made.manifest))


def _export_options(
    artifact: Annotated[str, typer.Argument(help="An artefact, or a model reference.")],
    out: Out = Path("runs/export"),
    weights: Weights = None,
    as_built: AsBuilt = False,
    model_args: Annotated[str, typer.Option("--args", help="YAML, for a model reference.")] = "{}",
    inputs: Inputs = None,
    data: Data = None,
    data_dir: DataDir = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Name the arguments of all exporters."""


def _export(technique: Technique, own: dict[str, Any], common: dict[str, Any]) -> Result:
    from kdeploy.cli.given import check_model

    check_model(common["artifact"])
    from kdeploy.cli.output import Terminal
    from kdeploy.pipeline.single import export_one
    from kdeploy.recipe.resolve import Step

    parsed = Step(technique=technique.name, parameters=own)
    made = export_one(_source(common), parsed, common["out"], Terminal())
    _show_artifact(made.file, is_json=common["json"])
    file = common["out"] / "exports" / made.file_name
    return Result({"file": str(file), **made.file.manifest})


def _source(common: dict[str, Any]) -> Any:
    from kdeploy.pipeline.single import Source
    from kdeploy.recipe.read import read_value
    from kdeploy.registry import mapping

    return Source(
        reference=common["artifact"],
        weights=common["weights"],
        as_built=common["as_built"],
        args=with_inputs(
            common["artifact"],
            mapping(read_value(common["model_args"]), "--args"),
            common["inputs"],
        ),
        data=data_reference(common["data"], common["data_dir"]),
    )


def _show_artifact(artifact: Artifact, *, is_json: bool) -> None:
    from kdeploy.cli.look import show_artifact

    show_artifact(artifact, is_json=is_json)


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
        said = "verified" if all(checks) else "NOT verified: see the checks above"
        screen.print(f"bundle: {result.out / 'bundle'} ({said})")
