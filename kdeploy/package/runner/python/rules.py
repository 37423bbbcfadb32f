"""What must hold of a bundle before anything in it runs: one table of rules, two readers.

The runner beside this file reads it on the device, `kdeploy verify` reads kdeploy's own copy. A
signature proves that nothing changed since somebody signed, not that what was signed makes sense:
a tolerance that cannot fail, a scale that is not a number, files outside the folder. Standard
library only, Python 3.9.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .reading import (
    ARRAYS,
    MODEL,
    MOST_BYTES,
    Refused,
    array_shape,
    json_object,
    largest,
    operators,
)

MANIFEST, TOLERANCE = "manifest.json", "golden/tolerance.json"
REQUIRED = (MANIFEST, MODEL, *ARRAYS, TOLERANCE, "runner/python/run.py", "README.md")
MOST_NUMBERS = 2**28  # of one item
MOST_ITEMS = 16
LARGE = 1e30
CLOSE = 1 + 1e-6
# Shares of the outputs' standard deviation, see docs/bundle.md, "How the tolerance is chosen".
FLOAT_FLOOR, QUANTIZED_FLOOR, SPREAD_MARGIN = 1e-3, 0.1, 4.0
DEVICE_METRICS = frozenset(
    {"peak_memory", "size", "load_time", "first_inference", "throughput"}
    | {f"latency.{part}" for part in ("mean", "p50", "p90", "p99")}
)
Json = Any
# What the names of operators that compute on integers, or round to them, begin with.
QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "QLinear", "ConvInteger", "MatMulInteger")


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
    return value == "batch" or (type(value) is int and 1 <= value <= MOST_NUMBERS)


_DTYPES = (
    "float16 float32 float64 bfloat16 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool object"
)
_PORT: list[tuple[str, Callable[[Json], bool], str]] = [
    ("name", _named, "a name"),
    ("shape", _listed, "a list"),
    ("shape[]", _axis, f'"batch" or a whole number from 1 to {MOST_NUMBERS}'),
    ("type", _one_of(*_DTYPES.split()), "a type of numbers"),
    ("values", _one_of("", "logits", "probabilities"), "logits, probabilities or empty"),
]
_ANY_NUMBER = _number(-LARGE, LARGE)
# Key, test, what it must be. `[]`: each of a list, `{}`: each of a table, `?`: may be absent.
RULES: dict[str, list[tuple[str, Callable[[Json], bool], str]]] = {
    MANIFEST: [
        ("schema_version", _integer(1, 1), "1"),
        ("kind", _one_of("bundle"), "bundle"),
        ("name", _named, "a name"),
        ("created", _text, "text"),
        ("kdeploy", _text, "text"),
        ("artifact", _text, "text"),
        ("chosen_because", _text, "text"),
        ("model", _table, "a table"),
        ("model.file", _one_of(MODEL), MODEL),
        ("model.format", _one_of("onnx"), "onnx"),
        ("model.sha256", _shaped_as("[0-9a-f]{64}"), "a SHA-256"),
        ("model.size", _integer(1, MOST_BYTES), f"a whole number from 1 to {MOST_BYTES}"),
        ("model.opset", _integer(1, 1000), "a whole number from 1 to 1000"),
        ("model.profile", _text, "text"),
        ("model.is_quantized", _truth, "true or false"),
        ("inputs", lambda v: _listed(v) and len(v) == 1, "a list of one input"),
        *((f"inputs[].{key}", test, wanted) for key, test, wanted in _PORT),
        ("outputs", lambda v: _listed(v) and 1 <= len(v) <= 1000, "a list of outputs"),
        *((f"outputs[].{key}", test, wanted) for key, test, wanted in _PORT),
        ("preprocessing", _table, "a table"),
        (
            "preprocessing.layout",
            _one_of("NCTHW", "NCHW", "NCL", "NC", "NT"),
            "NCTHW, NCHW, NCL, NC or NT",
        ),
        ("preprocessing.shape", _listed, "a list"),
        ("preprocessing.shape[]", _integer(1, MOST_NUMBERS), "a whole number above 0"),
        ("preprocessing.scale", _number(1 / LARGE, LARGE), "a number above 0, and finite"),
        ("preprocessing.mean", _listed, "a list"),
        ("preprocessing.mean[]", _ANY_NUMBER, "a finite number"),
        ("preprocessing.std", _listed, "a list"),
        ("preprocessing.std[]", _number(1 / LARGE, LARGE), "a number above 0, and finite"),
        (
            "preprocessing.resize",
            _one_of("", "bilinear", "letterbox"),
            "bilinear, letterbox or empty",
        ),
        (
            "preprocessing.background?",
            lambda v: _listed(v) and len(v) in (0, 3),
            "red, green, blue",
        ),
        ("preprocessing.background?[]", _integer(0, 255), "a whole number from 0 to 255"),
        ("preprocessing.classes", _listed, "a list"),
        ("preprocessing.classes[]", _named, "a name"),
        ("preprocessing.dtype?", _one_of("float32", "int64"), "float32 or int64"),
        ("preprocessing.vocabulary?", _integer(0, 2**31), "a whole number from 0"),
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
        ("atol", _number(1e-12, LARGE), "a number above 0, and finite"),
        ("top1_items", _listed, "a list"),
        ("top1_items[]", _integer(0, MOST_NUMBERS), "the number of an item"),
        ("output_std", _number(0, LARGE), "a number from 0, and finite"),
        ("floor_of_std", lambda v: v in (FLOAT_FLOOR, QUANTIZED_FLOOR), "0.001 or 0.1"),
        ("spread", _number(0, LARGE), "a number from 0, and finite"),
        ("spread_margin", lambda v: v == SPREAD_MARGIN, f"{SPREAD_MARGIN:g}"),
    ],
}


def check_rules(folder: Path, digests: dict[str, str]) -> Json:
    """Return the manifest of a bundle whose files are as SHA256SUMS says.

    Args:
        folder: The unpacked bundle.
        digests: Of its files, as `check_files` returns them.

    Raises:
        Refused: a file is missing, a rule is broken, or two parts contradict one another.
    """
    for name in REQUIRED:
        if name not in digests:
            raise Refused(f"it has no {name}")
    manifest, tolerance = (document(folder, name) for name in RULES)
    shapes = {key: array_shape(folder / name, key) for name, key in ARRAYS.items()}
    for reason in _contradictions(folder, manifest, tolerance, shapes, digests):
        raise Refused(reason)
    return manifest


def document(folder: Path, name: str) -> Json:
    """Return a JSON file of a bundle, of which every rule of the table holds."""
    found = json_object(folder, name)
    for key, test, wanted in RULES[name]:
        for place, value in _values(found, key.split("."), ""):
            if not test(value):
                raise Refused(f"{name}: {place} is {_shown(value)}; it must be {wanted}")
    return found


def _values(found: Json, keys: list[str], place: str) -> Iterator[tuple[str, Json]]:
    if not keys:
        yield place[1:], found
        return
    key = keys[0].rstrip("[]{}?")
    inner = found.get(key, _ABSENT) if isinstance(found, dict) else _ABSENT
    if "?" in keys[0] and isinstance(found, dict) and key not in found:
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


_ABSENT = None


def _shown(value: Json) -> str:
    text = "absent" if value is None else json.dumps(value)[:1000]
    return text if len(text) <= 80 else f"{text[:77]}..."


def _contradictions(
    folder: Path, manifest: Json, tolerance: Json, shapes: Json, digests: dict[str, str]
) -> Iterator[str]:
    """Yield what the parts of a bundle say against one another."""
    yield from _of_the_model(folder, manifest, digests)
    yield from _of_the_input(manifest)
    yield from _of_the_classes(manifest)
    yield from _of_the_numbers(manifest)
    yield from _of_the_golden(folder, manifest, tolerance, shapes)
    for licence in manifest["licences"]:
        if licence["file"] not in digests:
            yield f"{MANIFEST}: the licence of {licence['part']} is {licence['file']}, not there"


def _of_the_model(folder: Path, manifest: Json, digests: dict[str, str]) -> Iterator[str]:
    said = manifest["model"]
    if said["sha256"] != digests[MODEL]:
        yield f"{MANIFEST} and {MODEL} do not fit: another checksum"
    size = sum((folder / name).stat().st_size for name in digests if name.startswith(MODEL))
    if said["size"] != size:
        yield f"{MANIFEST} and {MODEL} do not fit: {said['size']} bytes, found {size}"
    quantized = sorted({o for o in operators(folder / MODEL) if o.startswith(QUANTIZED)})
    if said["is_quantized"] != bool(quantized):
        found = ", ".join(quantized) or "no quantized operator"
        truth = json.dumps(said["is_quantized"])
        yield f"{MANIFEST}: model.is_quantized is {truth}, and {MODEL} holds {found}"


def _of_the_input(manifest: Json) -> Iterator[str]:
    form, taken = manifest["preprocessing"], manifest["inputs"][0]
    shape, dtype = form["shape"], form.get("dtype", "float32")
    if math.prod(shape) > MOST_NUMBERS:
        yield f"{MANIFEST}: an item of shape {shape} has more than {MOST_NUMBERS} numbers"
    if taken["shape"][1:] != shape or taken["shape"][0] not in ("batch", 1):
        yield f"{MANIFEST}: the preprocessing makes {shape}, the file takes {taken['shape']}"
    if taken["type"] != dtype:
        yield f"{MANIFEST}: the preprocessing makes {dtype}, the file takes {taken['type']}"
    lengths = {len(form["mean"]), len(form["std"])}
    if not shape or not lengths <= {1, shape[0]}:
        found = f"{form['mean'][:9]}, {form['std'][:9]}"
        yield f"{MANIFEST}: mean and std {found} do not fit {shape[:1]} channels"
    axes = {"NCTHW": 4, "NCHW": 3, "NCL": 2, "NC": 1, "NT": 1}[form["layout"]]
    if len(shape) != axes or (form["layout"] == "NT") != (dtype == "int64"):
        yield f"{MANIFEST}: layout {form['layout']} for {dtype} items of shape {shape}"
    if (dtype == "int64") != (form.get("vocabulary", 0) > 0):
        yield f"{MANIFEST}: preprocessing.vocabulary is {form.get('vocabulary', 0)} for {dtype}"


def _of_the_classes(manifest: Json) -> Iterator[str]:
    classes, given = manifest["classes"], manifest["outputs"][0]["shape"]
    if classes != manifest["preprocessing"]["classes"]:
        yield f"{MANIFEST}: classes and preprocessing.classes are not the same names in one order"
    if len(set(classes)) != len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        yield f"{MANIFEST}: two classes are called {_shown(twice)}"
    if classes and given[-1:] != [len(classes)]:
        yield f"{MANIFEST}: {len(classes)} classes for outputs {given}"


def _of_the_numbers(manifest: Json) -> Iterator[str]:
    recorded, accuracy = manifest["recorded"], manifest["accuracy"]
    for name, value in {**accuracy, **recorded}.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number:
            continue
        is_share = name.startswith(("accuracy.", "agreement."))
        if not 0 <= value <= (1 if is_share else LARGE) and not name.startswith("parity."):
            yield f"{MANIFEST}: {name[:60]} is {value}"
        if name in recorded and name in accuracy and recorded[name] != accuracy[name]:
            yield f"{MANIFEST}: {name[:60]} is recorded as {recorded[name]} and {accuracy[name]}"
    if recorded.get("size", manifest["model"]["size"]) != manifest["model"]["size"]:
        yield f"{MANIFEST}: recorded.size is {recorded['size']}, the file has another"
    for budget in manifest["budgets"]:
        metric, here = budget["metric"], budget["judged"] == "device"
        if here != (metric in DEVICE_METRICS) or not (here or metric in recorded):
            yield f"{MANIFEST}: the budget on {metric[:60]} is judged by what nobody measured"
        if re.split(r"[:\s<>]", budget["gate"].strip())[0] != metric:
            yield f"{MANIFEST}: the budget {_shown(budget['gate'])} judges {metric[:60]}"


def _of_the_golden(folder: Path, manifest: Json, tolerance: Json, shapes: Json) -> Iterator[str]:
    count, given = tolerance["num_items"], manifest["outputs"][0]["shape"][1:]
    wanted = {
        "inputs": (count, *manifest["preprocessing"]["shape"]),
        "outputs": (count, *given),
    }
    for key, shape in wanted.items():
        if shapes[key] != shape or "batch" in shape or not given:
            yield f"golden/{key}.npz has shape {shapes[key]}, expected {shape}"
    if tolerance["floor_of_std"] == QUANTIZED_FLOOR and not manifest["model"]["is_quantized"]:
        yield f"{TOLERANCE}: floor_of_std is {QUANTIZED_FLOOR}, and the model is not quantized"
    std, atol = tolerance["output_std"], tolerance["atol"]
    derived = max(tolerance["floor_of_std"] * std, min(SPREAD_MARGIN * tolerance["spread"], std))
    if atol > derived * CLOSE:  # outputs that are nearly one number have a floor of their own
        derived = max(derived, 1e-6 * largest(folder / "golden" / "outputs.npz"), 1e-12)
    if not derived <= atol * CLOSE <= derived * CLOSE**2:
        yield (
            f"{TOLERANCE}: atol {atol:g} does not follow from its own numbers, which give "
            f"{derived:g} (the outputs' standard deviation is {std:g})"
        )
    items = tolerance["top1_items"]
    if len(set(items)) != len(items) or any(i >= count * math.prod(given[:-1]) for i in items):
        yield f"{TOLERANCE}: top1_items names an item twice, or one that is not there"


def allowances(manifest: Json, threads: int) -> tuple[int, float]:
    """Return how many MB a self-test may take, and how many seconds, where nobody says.

    Both follow the budgets, above a floor; a stranger's budgets do not go beyond a ceiling.
    """
    bounds = {b["metric"]: b["bound"] for b in manifest["budgets"] if b["is_upper"]}
    megabytes = (2 * bounds.get("peak_memory", 0) + 8 * manifest["model"]["size"]) / 2**20
    slowest = max([bounds[m] for m in bounds if m.startswith("latency.")], default=0)
    return int(min(max(megabytes, 640 + 16 * threads), 4096)), min(max(120.0, 200 * slowest), 600.0)
