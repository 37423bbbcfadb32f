"""`kdeploy list`: techniques and their parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdeploy.cli.options import Debug, Json
from kdeploy.cli.result import Result

if TYPE_CHECKING:
    pass


def list_techniques(
    kind: Annotated[
        str | None, typer.Argument(help="loss, compressor, runtime, ..., or a key of the recipe")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="As the catalogue page.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> Result:
    """List techniques with their parameters."""
    from kdeploy import registry
    from kdeploy.cli.output import out as console
    from kdeploy.progress.screen import write
    from kdeploy.report.catalogue import catalogue

    kinds = registry.kinds_of(kind) if kind else list(registry.FOLDERS)
    found = {k: list(registry.techniques(k).values()) for k in kinds}
    if markdown and not json:
        write(catalogue([t for group in found.values() for t in group]))
    else:
        screen = console(is_json=json)
        for name, group in found.items():
            screen.print("\n", (name, "bold"))
            for technique in group:
                screen.print("  ", (technique.name, "cyan"), f"  {technique.summary}")
                for p in technique.parameters:
                    shown = "required" if p.is_required else repr(p.default)
                    screen.print(f"      {p.name} = {shown}  {p.doc}")
    return Result({k: [_technique(t) for t in group] for k, group in found.items()})


def _technique(technique: Any) -> dict[str, Any]:
    return {
        "name": technique.name,
        "summary": technique.summary,
        "facts": {k: sorted(v) if isinstance(v, set) else v for k, v in technique.facts.items()},
        "parameters": [
            {
                "name": p.name,
                "type": p.annotation,
                "default": None if p.is_required else p.default,
                "required": p.is_required,
                "doc": p.doc,
            }
            for p in technique.parameters
        ],
    }
