"""Numbers of channels that modules keep as plain attributes, such as `num_heads`.

A place is the module's name and the attribute's; of a list of numbers, also which one:
`encoder.attention.num_heads`, `mix.split_sizes.0`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn


def place_of(module: str, attribute: str, number: int | None = None) -> str:
    """Return the name of a place."""
    own = attribute if number is None else f"{attribute}.{number}"
    return f"{module}.{own}" if module else own


def place_of_list(model: nn.Module, module: str, values: Sequence[int]) -> str | None:
    """Return the place of a module's list or tuple of just these numbers, None without one."""
    for attribute, value in vars(model.get_submodule(module)).items():
        if isinstance(value, list | tuple) and list(value) == list(values):
            return place_of(module, attribute)
    return None


def read_number(model: nn.Module, place: str) -> int:
    """Return the number at a place."""
    owner, attribute, number = _found(model, place)
    value = getattr(owner, attribute)
    return int(value if number is None else value[number])


def lower_number(model: nn.Module, place: str, by: int) -> None:
    """Make the number at a place smaller."""
    owner, attribute, number = _found(model, place)
    value = getattr(owner, attribute)
    if number is None:
        setattr(owner, attribute, value - by)
        return
    # A new one: a copy of the module may hold the same list.
    values = list(value)
    values[number] -= by
    setattr(owner, attribute, type(value)(values))


def _found(model: nn.Module, place: str) -> tuple[Any, str, int | None]:
    owner, _, own = place.rpartition(".")
    if own.isdigit():
        owner, _, attribute = owner.rpartition(".")
        return model.get_submodule(owner), attribute, int(own)
    return model.get_submodule(owner), own, None
