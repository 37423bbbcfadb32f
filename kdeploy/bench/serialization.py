"""Values of dataclasses as JSON and arrays, and back by their type hints: no pickle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np


def plain(value: Any, arrays: list[Any]) -> Any:
    """Return the value as JSON has it; arrays are appended to `arrays` and named by their place."""
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return len(arrays) - 1
    if isinstance(value, np.generic):
        return value.item()
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name), arrays) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item, arrays) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, arrays) for item in value]
    return value


def restored(kind: Any, stored: Mapping[str, Any], arrays: Sequence[Any]) -> dict[str, Any]:
    """Return the arguments of the dataclass `kind` that `plain` made of its fields."""
    hints = get_type_hints(kind)
    return {name: _value(hints[name], value, arrays) for name, value in stored.items()}


def _value(hint: Any, stored: Any, arrays: Sequence[Any]) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if stored is None:
        return None
    if origin in (Union, UnionType):
        (hint,) = (a for a in arguments if a is not NoneType)
        return _value(hint, stored, arrays)
    if origin is np.ndarray:
        return arrays[stored]
    if is_dataclass(hint) and isinstance(hint, type):
        return hint(**restored(hint, stored, arrays))
    if origin is tuple:
        kinds = arguments if arguments[-1] is not Ellipsis else arguments[:1] * len(stored)
        return tuple(_value(k, s, arrays) for k, s in zip(kinds, stored, strict=True))
    if origin is list:
        return [_value(arguments[0], item, arrays) for item in stored]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {key: _value(arguments[1], item, arrays) for key, item in stored.items()}
    return stored
