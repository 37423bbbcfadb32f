"""`kdeploy search`: the best of many recipes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdeploy.cli.options import DataDir, Debug, Json, Out
from kdeploy.cli.result import Result

if TYPE_CHECKING:
    from kdeploy.search.run import SearchResult


def search(
    recipe: Annotated[Path, typer.Argument(help="The recipe, with or without a `search:`.")],
    out: Out = Path("runs/search"),
    trials: Annotated[
        int, typer.Option("--trials", min=1, help="Candidates in all, those of earlier runs too.")
    ] = 30,
    hours: Annotated[
        float | None, typer.Option("--hours", min=0.0, help="Begin none after so long.")
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Candidates that train side by side.")
    ] = 1,
    ray: Annotated[
        str | None,
        typer.Option("--ray", help="Train on this Ray cluster: `auto`, or the head's HOST:PORT."),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option("--host", help="Time files there, over ssh: user@device."),
    ] = None,
    sampler: Annotated[
        str | None, typer.Option("--sampler", help="In place of `search.sampler`: tpe gp random.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key: distill.epochs=10")
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
    debug: Debug = False,
) -> Result:
    """Find the best recipe for constraints; an interrupted search goes on where it stopped."""
    from kdeploy.bench.ssh.hosts import parse_host
    from kdeploy.recipe.read import read_given
    from kdeploy.search.settings import settings_of

    folder = [f"data.folder={data_dir.resolve()}"] if data_dir else []
    chosen = [f"search.sampler={sampler}"] if sampler else []
    if host is not None:
        parse_host(host)
    settings = settings_of(
        read_given(recipe),
        folder=recipe.parent,
        out=out,
        overrides=[*(overrides or []), *folder, *chosen],
        host=host,
    )
    from kdeploy.progress.terminal import Terminal
    from kdeploy.search.run import Budget
    from kdeploy.search.run import search as search_recipes

    budget = Budget(trials=trials, hours=hours, workers=workers, ray=ray)
    result = search_recipes(settings, budget, listener=Terminal())
    _show(result, is_json=json)
    return Result({"out": str(out), **result.summary()}, exit_code=0 if result.passed else 1)


def _show(result: SearchResult, *, is_json: bool) -> None:
    from kdeploy.cli.output import out as console

    screen, out = console(is_json=is_json), result.settings.out
    screen.print(f"trials: {out / 'trials.csv'}")
    screen.print(f"report: {out / 'report.html'}")
    if result.finalists.best is not None:
        screen.print(f"best: trial {result.finalists.best}, {out / 'best' / 'recipe.yaml'}")
        if (out / "best" / "bundle").is_dir():
            screen.print(f"bundle: {out / 'best' / 'bundle'}")
