"""Numbers of channels that modules keep as plain attributes, such as `num_heads`.

A path is the module's name and the attribute's; of a list of numbers, also which one:
`encoder.attention.num_heads`, `mix.split_sizes.0`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn


def attribute_path(module: str, attribute: str, number: int | None = None) -> str:
    """Return the name of a path."""
    own = attribute if number is None else f"{attribute}.{number}"
    return f"{module}.{own}" if module else own


def path_of_list(model: nn.Module, module: str, values: Sequence[int]) -> str | None:
    """Return the path of a module's list or tuple of just these numbers, None without one."""
    for attribute, value in vars(model.get_submodule(module)).items():
        if isinstance(value, list | tuple) and list(value) == list(values):
            return attribute_path(module, attribute)
    return None


def read_number(model: nn.Module, path: str) -> int:
    """Return the number at a path."""
    owner, attribute, number = _found(model, path)
    value = getattr(owner, attribute)
    return int(value if number is None else value[number])


def lower_number(model: nn.Module, path: str, by: int) -> None:
    """Make the number at a path smaller."""
    owner, attribute, number = _found(model, path)
    value = getattr(owner, attribute)
    if number is None:
        setattr(owner, attribute, value - by)
        return
    # A new one: a copy of the module may hold the same list.
    values = list(value)
    values[number] -= by
    setattr(owner, attribute, type(value)(values))


def _found(model: nn.Module, path: str) -> tuple[Any, str, int | None]:
    owner, _, own = path.rpartition(".")
    if own.isdigit():
        owner, _, attribute = owner.rpartition(".")
        return model.get_submodule(owner), attribute, int(own)
    return model.get_submodule(owner), own, None
