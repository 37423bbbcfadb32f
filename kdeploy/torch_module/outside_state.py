"""What a model holds outside of its `state_dict`: by name, and where two models differ in it."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from kdeploy.torch_module.model_faults import same
from kdeploy.untrusted.user_code import is_users

MOST_VALUES = 20_000  # a model may hold a whole data set
DEEPEST = 6  # lists in lists of attributes
_INTERNAL = frozenset(vars(nn.Module()))
_VALUES = (Tensor, np.ndarray, bool, int, float, complex, str)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldValue:
    """Something that a model holds and its `state_dict` does not."""

    name: str
    """As in Python: `blocks.0.scale`, `tables[2]`."""
    owner: nn.Module
    attribute: str
    """Of the owner, or of its source file, that leads to the value."""
    kind: str
    value: Any

    @property
    def is_array(self) -> bool:
        return isinstance(self.value, Tensor | np.ndarray)


def outside_state(model: nn.Module) -> dict[str, HeldValue]:
    """Return all values outside of the model's `state_dict` that can be reached, by name."""
    walk = _Walk()
    for path, module in model.named_modules():
        for name in module._non_persistent_buffers_set:
            tensor = module._buffers.get(name)
            walk.start(module, path, name, "a buffer with `persistent=False`", tensor)
        for name, value in vars(module).items():
            if name not in _INTERNAL:
                walk.start(module, path, name, "a plain attribute", value)
        for name, value in _globals(module):
            walk.start(module, "", name, "a global of its source file", value)
    return walk.found


def different(one: nn.Module, other: nn.Module) -> list[HeldValue]:
    """Return what of `one` is not the same in `other`; tensors and arrays before numbers."""
    return changed(outside_state(other), outside_state(one))


def changed(before: Mapping[str, HeldValue], after: Mapping[str, HeldValue]) -> list[HeldValue]:
    """Return what is not as it was before; tensors and arrays before numbers."""
    found = [
        value
        for name, value in after.items()
        if name not in before or not _same(value.value, before[name].value)
    ]
    return sorted(found, key=lambda value: not value.is_array)


class _Walk:
    """Follows what a model holds, each object once."""

    def __init__(self) -> None:
        self.found: dict[str, HeldValue] = {}
        self._seen: set[int] = set()

    def start(self, owner: nn.Module, path: str, attribute: str, kind: str, value: Any) -> None:
        name = f"{path}.{attribute}" if path else attribute
        for full, found in self._values(name, value, DEEPEST):
            if len(self.found) < MOST_VALUES:
                self.found[full] = HeldValue(
                    name=full,
                    owner=owner,
                    attribute=attribute,
                    kind=kind,
                    # A copy: it may be asked later whether it has changed.
                    value=found.detach().clone() if isinstance(found, Tensor) else _copied(found),
                )

    def _values(self, name: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
        if isinstance(value, _VALUES):
            yield name, value
            return
        # Objects may hold each other in circles.
        if depth == 0 or value is None or id(value) in self._seen:
            return
        self._seen.add(id(value))
        for inner, held in _held(value):
            yield from self._values(f"{name}{inner}", held, depth - 1)


def _held(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what an object holds, with how Python gets there from it."""
    if isinstance(value, nn.Module):  # in a list or a dictionary: its weights are not in the state
        own = {name: held for name, held in vars(value).items() if name not in _INTERNAL}
        yield from ((f".{name}", held) for name, held in {**value.state_dict(), **own}.items())
    elif isinstance(value, Mapping):
        yield from ((f"[{key!r}]", held) for key, held in value.items())
    elif isinstance(value, list | tuple):
        yield from ((f"[{place}]", held) for place, held in enumerate(value))
    elif isinstance(value, functools.partial):
        yield from ((f".args[{place}]", held) for place, held in enumerate(value.args))
        yield from ((f".keywords[{key!r}]", held) for key, held in value.keywords.items())
    elif isinstance(value, types.FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=False)
        yield from ((f"'s `{name}`", cell.cell_contents) for name, cell in cells if _is_full(cell))
    elif not isinstance(value, type | types.ModuleType) and hasattr(value, "__dict__"):
        yield from ((f".{name}", held) for name, held in vars(value).items())


def _globals(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the tensors, arrays and containers that the methods of a user's class read globally."""
    for method in vars(type(module)).values():
        code = getattr(method, "__code__", None)
        if code is None or not is_users(code.co_filename):
            continue
        for name in code.co_names:
            value = method.__globals__.get(name)
            if isinstance(value, Tensor | np.ndarray | list | dict | nn.Module | float):
                yield name, value


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and same(one, other)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    is_nan = one != one and other != other  # NaN equals nothing, itself included
    return bool(type(one) is type(other) and (one == other or is_nan))


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value


def _is_full(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - an empty one raises
    except ValueError:
        return False
    return True
