"""`kdeploy report`: compare runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdeploy.cli.options import (
    Debug,
    GitHubSummary,
    Json,
)
from kdeploy.cli.result import Result


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
    by_device: Annotated[
        bool, typer.Option("--by-device", help="Beside --out, a page for each device.")
    ] = False,
    github_summary: GitHubSummary = False,
    json: Json = False,
    debug: Debug = False,
) -> Result:
    """Compare runs, also from several machines and with an older version."""
    from kdeploy.cli.output import out as console
    from kdeploy.cli.output import show_decisions, show_summary
    from kdeploy.errors import DataError, InputError
    from kdeploy.gate import parse_gates
    from kdeploy.progress.screen import write
    from kdeploy.report.as_dict import document
    from kdeploy.report.device_pages import device_pages, of_machine, with_pages
    from kdeploy.report.run import comparison, format_of, render

    if by_device and out is None:
        raise InputError(
            "--by-device writes a page for each device, and no --out says where",
            hint="kdeploy report RESULTS --by-device --out compared.html",
        )
    gates = parse_gates(gate or [], where="--gate")
    drawn = comparison(results, baseline=baseline, gates=gates, against=against)
    if not drawn.records:
        named = ", ".join(map(str, results))
        raise DataError(f"{named}: nothing was measured", hint="`kdeploy bench` measures files")
    form = format or (format_of(out) if out else "markdown")
    pages = device_pages(drawn, out) if out and by_device else {}
    if out is not None or not (json or github_summary):
        text = render(with_pages(drawn, pages), form)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text)
        console(is_json=json).print(f"wrote {out}")
        for machine, page in pages.items():
            page.write_text(render(of_machine(drawn, machine), form))
            console(is_json=json).print(f"wrote {page}")
        show_decisions(console(is_json=json), drawn)
    if github_summary:
        show_summary(drawn, is_json=json)
    elif out is None and not json:
        write(text)
    result = {
        "out": str(out) if out else None,
        **({"pages": {m: str(page) for m, page in pages.items()}} if by_device else {}),
        **(document(drawn) if json else {}),
    }
    return Result(result, exit_code=0 if drawn.passed else 1)
