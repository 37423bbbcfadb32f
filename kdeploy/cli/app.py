"""The commands; each imports what it needs when it runs, so that help comes at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from kdeploy import __version__
from kdeploy.cli.advise import advise
from kdeploy.cli.bench import bench_command
from kdeploy.cli.compress import compress_app
from kdeploy.cli.distill import distill_command
from kdeploy.cli.doctor import doctor
from kdeploy.cli.dynamic import dynamic_app
from kdeploy.cli.export import export_app
from kdeploy.cli.init import init
from kdeploy.cli.list import list_techniques
from kdeploy.cli.package import package
from kdeploy.cli.recipe_schema import recipe_schema
from kdeploy.cli.report import report
from kdeploy.cli.run import run
from kdeploy.cli.search import search
from kdeploy.cli.show import show
from kdeploy.cli.verify import verify

ORDER = (
    "run",
    "distill",
    "compress",
    "export",
    "bench",
    "report",
    "package",
    "verify",
    "search",
    "list",
)


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
    app.command()(run)
    verb = next((word for word in given if not word.startswith("-")), "")
    app.command()(distill_command(is_asked=verb == "distill"))
    app.add_typer(compress_app(is_asked=verb == "compress"), name="compress")
    app.add_typer(export_app(is_asked=verb == "export"), name="export")
    app.add_typer(dynamic_app(is_asked=verb == "dynamic"), name="dynamic")
    measure = bench_command(is_asked=verb == "bench")
    commands: list[Callable[..., Any]] = [
        measure,
        report,
        package,
        verify,
        search,
        advise,
        show,
        doctor,
        init,
    ]
    for command in commands:
        app.command()(command)
    app.command("list")(list_techniques)
    app.command("recipe-schema")(recipe_schema)
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
