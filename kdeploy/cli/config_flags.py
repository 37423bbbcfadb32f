"""Flags made from the fields of a configuration: an option is written once, where it is defined."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from kdeploy.cli.techniques import plain_type
from kdeploy.recipe.read import read_value

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo


def with_flags(
    command: Callable[..., Any],
    model: type[BaseModel],
    *,
    into: str,
    names: Mapping[str, str] | None = None,
) -> Callable[..., Any]:
    """Return the command with a flag for each field of the model.

    Args:
        command: Takes those that were given as a mapping.
        model: Its fields are the flags; one that holds a list may be given several times.
        into: The parameter of the command that takes the mapping.
        names: The flag of a field, where it is not its name, of a list the singular.
    """
    own = {field: _flag(field, info, names or {}) for field, info in model.model_fields.items()}
    others = inspect.signature(command, eval_str=True).parameters

    def called(**given: Any) -> Any:
        flags = {name: given.pop(name) for name in own}
        chosen = {
            name: _value(model.model_fields[name], value)
            for name, value in flags.items()
            if value is not None
        }
        return command(**given, **{into: chosen})

    parameters = [p.replace(kind=p.KEYWORD_ONLY) for name, p in others.items() if name != into]
    parameters += own.values()
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {p.name: p.annotation for p in parameters}
    called.__name__, called.__doc__ = command.__name__, command.__doc__
    return called


def _flag(name: str, info: FieldInfo, names: Mapping[str, str]) -> inspect.Parameter:
    item, is_list = _item_type(info.annotation)
    kind, is_simple = plain_type(item)
    flag = "--" + names.get(name, _singular(name) if is_list else name).replace("_", "-")
    text = (info.description or "") + ("; repeat for more" if is_list else "")
    shown = _shown(info.get_default(), is_simple=is_simple)
    text = f"{text} [default: {shown}]" if shown else text
    option = typer.Option(
        *([f"{flag}/--no-{flag[2:]}"] if kind is bool else [flag]),
        help=text.replace("[", r"\["),
        metavar=None if is_simple else "YAML",
    )
    annotation: Any = types.GenericAlias(list, (kind,)) if is_list else kind
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[annotation | None, option],
    )


def _singular(word: str) -> str:
    return word.removesuffix("es" if word.endswith("sses") else "s")


def _item_type(annotation: Any) -> tuple[Any, bool]:
    """Return the type of a field, or of an entry of its list, and whether it is a list."""
    if typing.get_origin(annotation) is list:
        return typing.get_args(annotation)[0], True
    return annotation, False


def _shown(default: Any, *, is_simple: bool) -> str:
    """Return how a default is shown; "" where nothing is chosen for whoever leaves it out."""
    if default is None or default in ([], [None]):
        return ""
    if isinstance(default, bool):
        return "yes" if default else "no"
    if is_simple and not isinstance(default, list):
        return str(default)
    return yaml.safe_dump(default, default_flow_style=True).strip().removesuffix("\n...")


def _value(info: FieldInfo, given: Any) -> Any:
    item, is_list = _item_type(info.annotation)
    if plain_type(item)[1]:
        return given
    return [read_value(text) for text in given] if is_list else read_value(given)
