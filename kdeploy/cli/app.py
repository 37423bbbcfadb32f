"""The commands; each imports what it needs when it runs, so that help comes at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from kdeploy import __version__
from kdeploy.cli import deliver, look, make

ORDER = ("run", "distill", "compress", "export", "bench", "report", "package", "verify", "list")


class InOrderOfUse(TyperGroup):
    """Lists the commands as a user meets them; typer itself puts groups last."""

    def list_commands(self, ctx: Any) -> list[str]:
        rest = [name for name in super().list_commands(ctx) if name not in ORDER]
        return [*ORDER, *rest]


def build_app(given: Sequence[str]) -> typer.Typer:
    """Return the application; the commands of techniques are read only for the verb asked for."""
    app = typer.Typer(
        name="kdeploy",
        cls=InOrderOfUse,
        help="From an accurate teacher to a small, fast, verified file on a device.",
        epilog="Start: `kdeploy init my-project`, then `kdeploy run my-project/recipe.yaml`.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    app.callback()(_kdeploy)
    app.command()(make.run)
    verb = next((word for word in given if not word.startswith("-")), "")
    app.command()(make.distill_command(is_asked=verb == "distill"))
    app.add_typer(make.compress_app(is_asked=verb == "compress"), name="compress")
    app.add_typer(make.export_app(is_asked=verb == "export"), name="export")
    commands: list[Callable[..., Any]] = [
        deliver.bench_command(is_asked=verb == "bench"),
        deliver.report,
        deliver.package,
        deliver.verify,
        look.show,
        look.doctor,
        look.init,
    ]
    for command in commands:
        app.command()(command)
    app.command("list")(look.list_techniques)
    app.command("recipe-schema")(look.recipe_schema)
    return app


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"kdeploy {__version__}")
        raise typer.Exit


def _kdeploy(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version."
    ),
) -> None:
    """From an accurate teacher to a small, fast, verified file on a device."""
