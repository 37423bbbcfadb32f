"""`kdeploy bench`: measure files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from kdeploy.cli.options import (
    Data,
    DataDir,
    Debug,
    GitHubSummary,
    Inputs,
    Json,
    Out,
    TaskOption,
    data_reference,
    named_only,
)
from kdeploy.cli.result import Result

BENCH_FLAGS = {"threads": "threads", "minimum_seconds": "seconds"}
"""Flags that are not called as their fields."""


def bench_command(*, is_asked: bool) -> Callable[..., Any]:
    """Return `kdeploy bench` with a flag for each option of a plan."""
    if not is_asked:
        return named_only(bench)
    from kdeploy.bench.plan import BenchPlan
    from kdeploy.cli.config_flags import with_flags

    return with_flags(bench, BenchPlan, into="options", names=BENCH_FLAGS)


def bench(
    context: typer.Context,
    files: Annotated[list[str], typer.Argument(help="Artefacts, bundles or ONNX files.")],
    out: Out = Path("runs/bench"),
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="What all are compared with.")
    ] = None,
    gate: Annotated[
        list[str] | None, typer.Option("--gate", help="'latency.p50: <= 2ms'; repeat for more.")
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option("--host", help="Measure there, over ssh: user@device; repeat for more."),
    ] = None,
    inputs: Inputs = None,
    data: Data = None,
    data_dir: DataDir = None,
    task: TaskOption = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Measure anew.")] = False,
    github_summary: GitHubSummary = False,
    json: Json = False,
    debug: Debug = False,
    *,
    options: dict[str, Any],
) -> Result:
    """Measure files: latency, memory, accuracy, and whether the asked kernels ran.

    Each file runs in a process of its own, on real inputs of --data (else on
    noise, and flagged so), for the time of --effort and 100 calls at least;
    with --baseline files take turns, so that ratios can be trusted. A doubt
    about a number is a flag with its remedy, explained in the report and in
    docs/benchmarking.md.
    """
    from kdeploy.bench.plan import BenchPlan
    from kdeploy.bench.ssh.hosts import parse_host
    from kdeploy.cli.given import check_files
    from kdeploy.gate import parse_gates
    from kdeploy.registry import check

    plan = check(BenchPlan, options, where="bench")
    hosts = [parse_host(text) for text in dict.fromkeys(host or [])]
    gates = parse_gates(gate or [], where="--gate")
    check_files([*files, *([baseline] if baseline else [])])
    # Torch comes with these: what is wrong with the words is told before.
    from kdeploy.cli.output import out as console
    from kdeploy.cli.output import (
        show_comparison,
        show_nothing_measured,
        show_summary,
    )
    from kdeploy.pipeline.measuring import reasons_for_nothing
    from kdeploy.pipeline.side_by_side import bench_side_by_side
    from kdeploy.progress.terminal import Terminal

    measured = bench_side_by_side(
        files,
        plan,
        out,
        baseline=baseline,
        gates=gates,
        data=data_reference(data, data_dir, task=task),
        inputs=inputs or (),
        hosts=hosts,
        listener=Terminal(),
        use_cache=not no_cache,
        command=context.obj,
    )
    if github_summary:
        show_summary(measured.comparison, measured.verdicts, is_json=json)
    else:
        show_comparison(console(is_json=json), measured.comparison, measured.verdicts)
    passed = all(v.passed for v in measured.verdicts)
    document = {
        "out": str(out),
        "measurements": [m.to_dict() for m in measured.records],
        "comparisons": measured.comparisons,
        "gates": [v.to_dict() for v in measured.verdicts],
    }
    nothing = reasons_for_nothing(measured.records)
    code = show_nothing_measured(nothing) if nothing else 0 if passed else 1
    return Result(document, exit_code=code)
