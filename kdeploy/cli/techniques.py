"""Commands made from techniques: `kdeploy compress NAME ... --its-flags`, read from signatures."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import typer
import yaml

from kdeploy import registry
from kdeploy.recipe.read import read_value
from kdeploy.registry import Parameter, Technique

SIMPLE = (bool, int, float, str)


def add_commands(
    app: typer.Typer,
    kind: str,
    *,
    common: Callable[..., Any],
    run: Callable[[Technique, dict[str, Any], dict[str, Any]], Any],
) -> None:
    """Add a command for each technique of a kind.

    Args:
        app: The command group.
        kind: The kind of technique.
        common: A function whose signature has the arguments that all commands share.
        run: Called with the technique, its resolved parameters and the common arguments.
    """
    for technique in registry.techniques(kind).values():
        app.command(technique.name, help=_help(technique))(_command(technique, common, run))


def _command(
    technique: Technique,
    common: Callable[..., Any],
    run: Callable[[Technique, dict[str, Any], dict[str, Any]], Any],
) -> Callable[..., Any]:
    own = {p.name: p for p in technique.parameters}
    shared = inspect.signature(common, eval_str=True).parameters

    def command(**given: Any) -> Any:
        raw = {k: _value(own[k], v) for k, v in given.items() if k in own and v is not None}
        checked = registry.validate(technique.parameters, raw, where=technique.name)
        return run(technique, checked, {k: v for k, v in given.items() if k not in own})

    # Where a technique has a parameter of the name of a shared one, its own is shown.
    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in shared.values() if p.name not in own]
    parameters += [_option(p) for p in technique.parameters]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__name__ = technique.name
    return command


def _option(parameter: Parameter) -> inspect.Parameter:
    """Return the command-line option of a technique's parameter."""
    kind, is_simple = plain_type(parameter.type())
    name = "--" + parameter.name.replace("_", "-")
    default = None if parameter.is_required else parameter.default
    shown: Any = (
        default
        if is_simple
        else None
        if default is None
        else yaml.safe_dump(default, default_flow_style=True).strip()
    )
    names = [f"{name}/--no-{name[2:]}"] if kind is bool else [name]
    metavar = None if is_simple else "YAML"
    # Escaped, because square brackets would be markup.
    text = parameter.doc.replace("[", r"\[")
    option = typer.Option(*names, help=text, metavar=metavar, show_default=shown is not None)
    return inspect.Parameter(
        parameter.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=shown,
        annotation=Annotated[kind | None, option],
    )


def plain_type(annotation: Any) -> tuple[Any, bool]:
    """Return the type that the command line reads, and whether the value is used as it is."""
    if typing.get_origin(annotation) is Annotated:
        return plain_type(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        rest = [a for a in typing.get_args(annotation) if a is not type(None)]
        return plain_type(rest[0]) if len(rest) == 1 else (str, False)
    if typing.get_origin(annotation) is Literal:
        return str, True
    return (annotation, True) if annotation in SIMPLE else (str, False)


def _value(parameter: Parameter, given: Any) -> Any:
    if plain_type(parameter.type())[1]:
        return given
    return read_value(given)


def _help(technique: Technique) -> str:
    facts: Mapping[str, Any] = technique.facts
    paper = f"\n\nSource: {facts['paper']}" if facts.get("paper") else ""
    return technique.doc.strip() + paper
