"""Commands that measure, compare and package: bench, report, package, verify."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from kdeploy.cli.main import Result
from kdeploy.cli.options import (
    AsBuilt,
    Data,
    DataDir,
    Debug,
    GitHubSummary,
    Inputs,
    Json,
    Out,
    Weights,
    data_reference,
    named_only,
    with_inputs,
)

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
    from kdeploy.cli.output import (
        Terminal,
        show_comparison,
        show_nothing_measured,
        show_summary,
    )
    from kdeploy.cli.output import out as console
    from kdeploy.pipeline.measuring import reasons_for_nothing
    from kdeploy.pipeline.side_by_side import bench_side_by_side

    measured = bench_side_by_side(
        files,
        plan,
        out,
        baseline=baseline,
        gates=gates,
        data=data_reference(data, data_dir),
        inputs=inputs or (),
        hosts=hosts,
        audience=Terminal(),
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


def report(
    results: Annotated[
        list[Path],
        typer.Argument(help="Folders of runs, folders of such folders, or measurements.jsonl."),
    ],
    out: Annotated[Path | None, typer.Option("--out", help="The file; left out: stdout.")] = None,
    format: Annotated[
        str | None,
        typer.Option("--format", help="markdown, html, csv or json; else by the file's name."),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="Label or id to compare with.")
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option("--gate", help="What the best of each device must hold; repeat for more."),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option("--against", help="Results of an older version: what got worse, and better."),
    ] = None,
    github_summary: GitHubSummary = False,
    json: Json = False,
    debug: Debug = False,
) -> Result:
    """Compare runs, also from several machines and with an older version."""
    from kdeploy.cli.output import out as console
    from kdeploy.cli.output import show_decisions, show_summary
    from kdeploy.cli.screen import write
    from kdeploy.errors import DataError
    from kdeploy.gate import parse_gates
    from kdeploy.report.as_dict import document
    from kdeploy.report.run import comparison, format_of, render

    gates = parse_gates(gate or [], where="--gate")
    drawn = comparison(results, baseline=baseline, gates=gates, against=against)
    if not drawn.records:
        named = ", ".join(map(str, results))
        raise DataError(f"{named}: nothing was measured", hint="`kdeploy bench` measures files")
    if out is not None or not (json or github_summary):
        text = render(drawn, format or (format_of(out) if out else "markdown"))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text)
        console(is_json=json).print(f"wrote {out}")
        show_decisions(console(is_json=json), drawn)
    if github_summary:
        show_summary(drawn, is_json=json)
    elif out is None and not json:
        write(text)
    said = {"out": str(out) if out else None, **(document(drawn) if json else {})}
    return Result(said, exit_code=0 if drawn.passed else 1)


def package(
    artifact: Annotated[str, typer.Argument(help="An artefact, exported or not.")],
    out: Annotated[Path, typer.Option("--out", help="A folder, or a file that ends in .zip.")],
    budget: Annotated[
        list[str] | None, typer.Option("--budget", help="'peak_memory: <= 128MB'; repeat for more.")
    ] = None,
    weights: Weights = None,
    as_built: AsBuilt = False,
    inputs: Inputs = None,
    data: Data = None,
    data_dir: DataDir = None,
    json: Json = False,
    debug: Debug = False,
) -> Result:
    """Make the edge bundle and prove it here."""
    from kdeploy.cli.given import check_model

    check_model(artifact)
    from kdeploy.cli.output import Terminal, show_checks
    from kdeploy.cli.output import out as console
    from kdeploy.gate import parse_gates
    from kdeploy.pipeline.single import Source, package_one

    source = Source(
        reference=artifact,
        weights=weights,
        as_built=as_built,
        args=with_inputs(artifact, {}, inputs),
        data=data_reference(data, data_dir),
    )
    budgets = parse_gates(budget or [], where="--budget")
    result = package_one(source, budgets, out, Terminal())
    show_checks(console(is_json=json), result.checks)
    return Result({"out": str(out), **result.to_dict()}, exit_code=0 if result.passed else 1)


def verify(
    bundle: Annotated[Path, typer.Argument(help="A bundle: a folder or a zip.")],
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", min=1, help="Seconds for its model; else by its budgets."),
    ] = None,
    memory_limit: Annotated[
        str | None,
        typer.Option("--memory-limit", help="Of its model, e.g. 2GB; else by budgets and size."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> Result:
    """Prove a bundle on this machine: checksums, golden outputs, budgets."""
    from kdeploy.cli.output import out as console
    from kdeploy.cli.output import show_checks
    from kdeploy.package.verify import verify as verify_bundle
    from kdeploy.units import parse_quantity

    limit = None if memory_limit is None else int(parse_quantity(memory_limit)[0])
    result = verify_bundle(bundle, timeout_seconds=timeout, memory_bytes=limit)
    show_checks(console(is_json=json), result.checks)
    document = {"bundle": str(bundle), "passed": result.passed, "checks": result.checks}
    return Result(document, exit_code=0 if result.passed else 1)
