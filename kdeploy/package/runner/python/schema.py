"""The table of rules: what each value of a bundle's JSON files may be.

Standard library only, Python 3.9.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .reading import MOST_BYTES, Refused, json_object

MANIFEST, TOLERANCE = "manifest.json", "golden/tolerance.json"
MOST_NUMBERS = 2**28  # of one item
MOST_ITEMS = 16
LARGE = 1e30
# Shares of the outputs' standard deviation, see docs/bundle.md, "How the tolerance is chosen".
FLOAT_FLOOR, QUANTIZED_FLOOR, SPREAD_MARGIN, RMS_CAP = 1e-3, 0.1, 4.0, 0.5
Json = Any


def _text(value: Json) -> bool:
    return isinstance(value, str) and len(value) <= 100_000 and "\0" not in value


def _named(value: Json) -> bool:
    return _text(value) and value.strip() != ""


def _truth(value: Json) -> bool:
    return isinstance(value, bool)


def _table(value: Json) -> bool:
    return isinstance(value, dict)


def _listed(value: Json) -> bool:
    return isinstance(value, list)


def _integer(low: int, high: int) -> Callable[[Json], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _number(low: float, high: float) -> Callable[[Json], bool]:
    # NaN is in no interval.
    return lambda value: type(value) in (int, float) and low <= value <= high


def _one_of(*values: str) -> Callable[[Json], bool]:
    return lambda value: isinstance(value, str) and value in values


def _shaped_as(pattern: str) -> Callable[[Json], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _axis(value: Json) -> bool:
    is_name = isinstance(value, str) and 1 <= len(value) <= 200
    return is_name or (type(value) is int and 1 <= value <= MOST_NUMBERS)


def _count(low: int, high: int) -> Callable[[Json], bool]:
    return lambda value: isinstance(value, list) and low <= len(value) <= high


_DTYPES = (
    "float16 float32 float64 bfloat16 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool object"
)
_PORT: list[tuple[str, Callable[[Json], bool], str]] = [
    ("name", _named, "a name"),
    ("shape", _listed, "a list"),
    ("shape[]", _axis, f'"batch", a name, or a whole number from 1 to {MOST_NUMBERS}'),
    ("type", _one_of(*_DTYPES.split()), "a type of numbers"),
    ("values", _one_of("", "logits", "probabilities"), "logits, probabilities or empty"),
]
_ANY_NUMBER = _number(-LARGE, LARGE)
_PREPARED: list[tuple[str, Callable[[Json], bool], str]] = [
    ("preprocessing?", _table, "a table"),
    ("preprocessing?.scale", _number(1 / LARGE, LARGE), "a number above 0, and finite"),
    ("preprocessing?.mean", _listed, "a list"),
    ("preprocessing?.mean[]", _ANY_NUMBER, "a finite number"),
    ("preprocessing?.std", _listed, "a list"),
    ("preprocessing?.std[]", _number(1 / LARGE, LARGE), "a number above 0, and finite"),
    ("preprocessing?.vocabulary", _integer(0, 2**31), "a whole number from 0"),
]
_SIZE, _BOUND = _number(0, LARGE), _number(1e-12, LARGE)
_OF_AN_OUTPUT: list[tuple[str, Callable[[Json], bool], str]] = [
    ("atol", _BOUND, "a number above 0, and finite"),
    ("output_std", _SIZE, "a number from 0, and finite"),
    ("floor_of_std", lambda v: v in (FLOAT_FLOOR, QUANTIZED_FLOOR), "0.001 or 0.1"),
    ("spread", _SIZE, "a number from 0, and finite"),
    ("spread_margin", lambda v: v == SPREAD_MARGIN, f"{SPREAD_MARGIN:g}"),
    ("rms_spread?", _SIZE, "a number from 0, and finite"),
    ("rms_atol?", _BOUND, "a number above 0, and finite"),
]
# Key, test, what it must be. `[]`: each of a list, `{}`: each of a table, `?`: may be absent.
RULES: dict[str, list[tuple[str, Callable[[Json], bool], str]]] = {
    MANIFEST: [
        ("schema_version", _integer(1, 2), "1 or 2"),
        ("kind", _one_of("bundle"), "bundle"),
        ("name", _named, "a name"),
        ("created", _text, "text"),
        ("kdeploy", _text, "text"),
        ("artifact", _text, "text"),
        ("chosen_because", _text, "text"),
        ("model", _table, "a table"),
        ("model.file", _shaped_as(r"model\.[a-z0-9]{1,20}"), "model and an ending"),
        ("model.format", _shaped_as("[a-z0-9_]{1,40}"), "a format"),
        ("model.sha256", _shaped_as("[0-9a-f]{64}"), "a SHA-256"),
        ("model.size", _integer(1, MOST_BYTES), f"a whole number from 1 to {MOST_BYTES}"),
        ("model.opset?", _integer(1, 1000), "a whole number from 1 to 1000"),
        ("model.profile", _text, "text"),
        ("model.is_quantized", _truth, "true or false"),
        ("inputs", _count(1, 100), "a list of inputs"),
        *((f"inputs[].{key}", test, wanted) for key, test, wanted in _PORT),
        *((f"inputs[].{key}", test, wanted) for key, test, wanted in _PREPARED),
        ("outputs", _count(1, 1000), "a list of outputs"),
        *((f"outputs[].{key}", test, wanted) for key, test, wanted in _PORT),
        *((f"outputs[].{key}", test, wanted) for key, test, wanted in _PREPARED),
        ("release?", _integer(1, 2**31), f"a whole number from 1 to {2**31}"),
        ("state?", _count(1, 100), "a list of states"),
        ("state?[].input", _named, "an input"),
        ("state?[].output", _named, "an output"),
        ("preprocessing?", _table, "a table"),
        (
            "preprocessing?.layout",
            _one_of("NCTHW", "NCHW", "NHWC", "NCL", "NC", "NT"),
            "NCTHW, NCHW, NHWC, NCL, NC or NT",
        ),
        ("preprocessing?.shape", _listed, "a list"),
        ("preprocessing?.shape[]", _integer(1, MOST_NUMBERS), "a whole number above 0"),
        ("preprocessing?.scale", _number(1 / LARGE, LARGE), "a number above 0, and finite"),
        ("preprocessing?.mean", _listed, "a list"),
        ("preprocessing?.mean[]", _ANY_NUMBER, "a finite number"),
        ("preprocessing?.std", _listed, "a list"),
        ("preprocessing?.std[]", _number(1 / LARGE, LARGE), "a number above 0, and finite"),
        (
            "preprocessing?.resize",
            _one_of("", "bilinear", "letterbox"),
            "bilinear, letterbox or empty",
        ),
        (
            "preprocessing?.background?",
            lambda v: _listed(v) and len(v) in (0, 3),
            "red, green, blue",
        ),
        ("preprocessing?.background?[]", _integer(0, 255), "a whole number from 0 to 255"),
        ("preprocessing?.folded?", _truth, "true or false"),
        ("preprocessing?.classes", _listed, "a list"),
        ("preprocessing?.classes[]", _named, "a name"),
        ("preprocessing?.dtype?", _one_of("float32", "int64"), "float32 or int64"),
        ("preprocessing?.vocabulary?", _integer(0, 2**31), "a whole number from 0"),
        ("task?", _table, "a table"),
        ("task?.name", _named, "a name"),
        ("task?.parameters", _table, "a table"),
        ("task?.found", _table, "a table"),
        ("dynamic?", _table, "a table"),
        ("dynamic?.parts", _count(2, 8), "a list of 2 to 8 parts"),
        ("dynamic?.parts[].label", _named, "a name"),
        ("dynamic?.parts[].sha256", _shaped_as("[0-9a-f]{64}"), "a SHA-256"),
        ("dynamic?.parts[].takes", _table, "a table"),
        ("dynamic?.parts[].takes{}", _named, "a name"),
        ("dynamic?.parts[].logits", _named, "a name"),
        ("dynamic?.parts[].temperature", _number(1e-3, 1e3), "a number from 0.001 to 1000"),
        (
            "dynamic?.parts[].threshold",
            lambda v: v is None or _number(0, 1)(v),
            "a number from 0 to 1, or null of the last",
        ),
        ("dynamic?.score", _one_of("largest_probability"), "largest_probability"),
        ("dynamic?.calibration", _table, "a table"),
        ("dynamic?.calibration.early_share", _number(0, 1), "a number from 0 to 1"),
        ("dynamic?.calibration.early_share_interval", _count(2, 2), "two numbers"),
        ("dynamic?.calibration.early_share_interval[]", _number(0, 1), "a number from 0 to 1"),
        ("dynamic?.golden", _count(1, MOST_ITEMS), f"a list of 1 to {MOST_ITEMS}"),
        ("dynamic?.golden[]", _integer(0, 7), "the number of a part"),
        ("classes", _listed, "a list"),
        ("classes[]", _named, "a name"),
        ("accuracy", _table, "a table"),
        ("recorded", _table, "a table"),
        ("recorded{}", _ANY_NUMBER, "a finite number"),
        ("budgets", lambda v: _listed(v) and len(v) <= 100, "a list of at most 100"),
        ("budgets[].gate", _named, "a gate"),
        ("budgets[].metric", _named, "a metric"),
        ("budgets[].is_upper", _truth, "true or false"),
        ("budgets[].bound", _ANY_NUMBER, "a finite number"),
        ("budgets[].unit", _text, "a unit"),
        ("budgets[].judged", _one_of("device", "recorded"), "device or recorded"),
        ("licences", lambda v: _listed(v) and len(v) <= 100, "a list of at most 100"),
        ("licences[].part", _named, "a name"),
        ("licences[].identifier", _text, "text"),
        ("licences[].file", _shaped_as(r"LICENSES/[\w][\w.-]*"), "a file in LICENSES/"),
        ("machine", _table, "a table"),
        ("made_with", _table, "a table"),
        ("made_with{}", _text, "text"),
        ("lineage", _listed, "a list"),
        ("lineage[]", _table, "a table"),
    ],
    TOLERANCE: [
        ("num_items", _integer(1, MOST_ITEMS), f"a whole number from 1 to {MOST_ITEMS}"),
        ("top1_items", _listed, "a list"),
        ("top1_items[]", _integer(0, MOST_NUMBERS), "the number of an item"),
        ("further?", _count(1, 1000), "a list, one of each further output"),
        *_OF_AN_OUTPUT,
        *((f"further?[].{key}", test, wanted) for key, test, wanted in _OF_AN_OUTPUT),
    ],
}


def document(folder: Path, name: str) -> Json:
    """Return a JSON file of a bundle, of which every rule of the table holds."""
    found = json_object(folder, name)
    for key, test, wanted in RULES[name]:
        for place, value in _values(found, key.split("."), ""):
            if not test(value):
                raise Refused(f"{name}: {place} is {shown(value)}; it must be {wanted}")
    return found


def _values(found: Json, keys: list[str], place: str) -> Iterator[tuple[str, Json]]:
    if not keys:
        yield place[1:], found
        return
    key = keys[0].rstrip("[]{}?")
    inner = found.get(key, ABSENT) if isinstance(found, dict) else ABSENT
    if "?" in keys[0] and inner is ABSENT and isinstance(found, dict):
        return
    place = f"{place}.{key}"
    if keys[0].endswith("[]") and isinstance(inner, list):
        for number, member in enumerate(inner):
            yield from _values(member, keys[1:], f"{place}.{number}")
    elif keys[0].endswith("{}") and isinstance(inner, dict):
        for name, member in inner.items():
            yield from _values(member, keys[1:], f"{place}.{name[:60]}")
    elif keys[0][-1] not in "]}":
        yield from _values(inner, keys[1:], place)
    else:
        yield place[1:], inner


ABSENT = object()
"""What no test takes, unlike null."""


def shown(value: Json) -> str:
    """Return a value for a message, shortened."""
    text = "absent" if value is ABSENT else json.dumps(value)[:1000]
    return text if len(text) <= 80 else f"{text[:77]}..."
