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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .reading import (
    ARRAYS,
    MODEL,
    MOST_TEXT_BYTES,
    Refused,
    array_shapes,
    json_object,
    largest,
    operators,
)
from .schema import (
    LARGE,
    MANIFEST,
    MOST_NUMBERS,
    QUANTIZED_FLOOR,
    RMS_CAP,
    RULES,
    SPREAD_MARGIN,
    TOLERANCE,
    document,
    shown,
)

__all__ = ["RULES", "document"]

REQUIRED = (MANIFEST, *ARRAYS, TOLERANCE, "runner/python/run.py", "README.md")
CLOSE = 1 + 1e-6  # JSON keeps decimals: the last digit may differ
DEVICE_METRICS = frozenset(
    {"peak_memory", "size", "load_time", "first_inference", "throughput"}
    | {f"latency.{part}" for part in ("mean", "p50", "p90", "p99")}
)
WHOLE = ("int64", "int32")
"""Types of token ids: texts are as long as they are, so their sizes may be open."""
# What the names of operators that compute on integers, or round to them, begin with.
QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "QLinear", "ConvInteger", "MatMulInteger")
Json = Any

MAY_BE_LESS = ("regression.r2", "embedding.spearman", "agreement.spearman", "own.")
UNBOUNDED = ("agreement.mae", "agreement.cer")
"""Agreements that are no shares: distances, and errors by the length of the truth."""


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
    shapes = [array_shapes(folder / name, name) for name in ARRAYS]
    for reason in _contradictions(folder, manifest, tolerance, shapes, digests):
        raise Refused(reason)
    return manifest


def _contradictions(
    folder: Path, manifest: Json, tolerance: Json, shapes: Json, digests: dict[str, str]
) -> Iterator[str]:
    """Yield what the parts of a bundle say against one another."""
    yield from _of_the_model(folder, manifest, digests)
    yield from _of_the_parts(folder, manifest, digests, tolerance["num_items"])
    yield from _of_the_ports(manifest)
    if "preprocessing" in manifest:
        yield from _of_the_input(manifest)
    yield from _of_the_classes(manifest)
    yield from _of_the_numbers(manifest)
    yield from _of_the_golden(folder, manifest, tolerance, shapes)
    for licence in manifest["licences"]:
        if licence["file"] not in digests:
            yield f"{MANIFEST}: the licence of {licence['part']} is {licence['file']}, not there"


def _of_the_model(folder: Path, manifest: Json, digests: dict[str, str]) -> Iterator[str]:
    said = manifest["model"]
    if said["file"] not in digests:
        yield f"it has no {said['file']}"
        return
    if said["sha256"] != digests[said["file"]]:
        yield f"{MANIFEST} and {said['file']} do not fit: another checksum"
    size = sum((folder / name).stat().st_size for name in digests if name.startswith(MODEL))
    if said["size"] != size:
        yield f"{MANIFEST} and {said['file']} do not fit: {said['size']} bytes, found {size}"
    if said["format"] not in ("onnx", "dynamic"):
        return
    if said["format"] == "onnx" and "opset" not in said:
        yield f"{MANIFEST}: model.opset is absent, and an ONNX file has one"
    graphs = [name for name in digests if name.startswith(MODEL) and name.endswith(".onnx")]
    quantized = sorted(
        {o for n in graphs for o in operators(folder / n) if o.startswith(QUANTIZED)}
    )
    if said["is_quantized"] != bool(quantized):
        found = ", ".join(quantized) or "no quantized operator"
        truth = json.dumps(said["is_quantized"])
        yield f"{MANIFEST}: model.is_quantized is {truth}, and {said['file']} holds {found}"


def _of_the_parts(
    folder: Path, manifest: Json, digests: dict[str, str], count: int
) -> Iterator[str]:
    """Yield what is wrong with the parts of a dynamic model."""
    told, file = manifest.get("dynamic"), folder / manifest["model"]["file"]
    if (told is not None) != (manifest["model"]["format"] == "dynamic"):
        yield f"{MANIFEST}: `dynamic` is for a model of that format, and for it alone"
        return
    if told is None or file.name not in digests:
        return
    if file.stat().st_size > MOST_TEXT_BYTES:
        yield f"{file.name} is longer than {MOST_TEXT_BYTES} bytes"
        return
    for number, part in enumerate(told["parts"]):
        name = f"{MODEL}part-{number}.onnx"
        if digests.get(name) != part["sha256"]:
            yield f"{MANIFEST} and {name} do not fit: another checksum"
        if (part["threshold"] is None) != (number == len(told["parts"]) - 1):
            yield f"{MANIFEST}: the last part of a dynamic model has no threshold, all others have"
    if len(told["golden"]) != count or max(told["golden"]) >= len(told["parts"]):
        yield f"{MANIFEST}: dynamic.golden does not name a part for each golden item"
    if json_object(folder, file.name) != {k: v for k, v in told.items() if k != "golden"}:
        yield f"{MANIFEST} and {file.name} do not say the same"


def _of_the_ports(manifest: Json) -> Iterator[str]:
    """Yield what is wrong with the names and sizes of inputs and outputs, and with the state."""
    for kind in ("inputs", "outputs"):
        names = [port["name"] for port in manifest[kind]]
        if len(set(names)) != len(names):
            yield f"{MANIFEST}: two {kind} are called alike"
    inputs = {port["name"]: port for port in manifest["inputs"]}
    outputs = {port["name"]: port for port in manifest["outputs"]}
    takes_any_size = manifest.get("preprocessing", {}).get("folded", False)  # see `_of_the_input`
    for name, port in inputs.items():
        is_open = any(isinstance(size, str) and size != "batch" for size in port["shape"])
        if is_open and not takes_any_size and port["type"] not in WHOLE:
            yield f"{MANIFEST}: the input {shown(name)} has an open size beside the batch"
    fed = [state["input"] for state in manifest.get("state", [])]
    for state in manifest.get("state", []):
        one, other = inputs.get(state["input"]), outputs.get(state["output"])
        if one is None or other is None or one["type"] != other["type"]:
            yield f"{MANIFEST}: state {shown(state)} names no input and output of one type"
    if len(set(fed)) != len(fed) or len(fed) == len(inputs):
        yield f"{MANIFEST}: the states leave no input, or feed one twice"
    yield from _of_several(manifest)
    is_told = "preprocessing" in manifest or any("preprocessing" in p for p in manifest["inputs"])
    if not is_told and manifest["classes"]:
        yield f"{MANIFEST}: classes without preprocessing"
    if "preprocessing" in manifest and len(fed) + 1 != len(inputs):
        yield f"{MANIFEST}: preprocessing makes one input of {len(inputs) - len(fed)}"


def _of_several(manifest: Json) -> Iterator[str]:
    """Yield what is wrong with how single inputs are made of stored numbers."""
    for port in manifest["inputs"]:
        form = port.get("preprocessing")
        if form is None:
            continue
        where = f"{MANIFEST}: the preprocessing of {shown(port['name'])}"
        if "preprocessing" in manifest or not takes_rows(port):
            yield f"{where} is one too many, or it takes no items"
        if not {len(form["mean"]), len(form["std"])} <= {1, *port["shape"][1:2]}:
            yield f"{where} has a mean and std that do not fit {port['shape'][1:2]} channels"
        if (form["vocabulary"] > 0) != (port["type"] == "int64"):
            yield f"{where} has a vocabulary of {form['vocabulary']} for {port['type']}"


def data_ports(manifest: Json) -> list[Json]:
    """Return the inputs that are given, in their order: all that are no state."""
    fed = [state["input"] for state in manifest.get("state", [])]
    return [port for port in manifest["inputs"] if port["name"] not in fed]


def takes_rows(port: Json) -> bool:
    """Return whether a call takes one row of what is given for an input, or gives one."""
    return port["shape"][:1] in (["batch"], [1])


def _of_the_input(manifest: Json) -> Iterator[str]:
    form, taken = manifest["preprocessing"], data_ports(manifest)[0]
    shape, dtype = form["shape"], form.get("dtype", "float32")
    if math.prod(shape) > MOST_NUMBERS:
        yield f"{MANIFEST}: an item of shape {shape} has more than {MOST_NUMBERS} numbers"
    is_folded = form.get("folded", False)
    if is_folded != (form["layout"] == "NHWC") or (is_folded and len(shape) != 3):
        yield f"{MANIFEST}: preprocessing.folded is {shown(is_folded)} for {form['layout']}"
        return
    wanted, dtype = (pixel_shape(form), "uint8") if is_folded else (shape, dtype)
    sizes = [None if is_folded and isinstance(n, str) else n for n in taken["shape"][1:]]
    if taken["type"] in WHOLE and len(sizes) == len(shape):
        sizes = list(_closed(tuple(sizes), tuple(shape)))
    if sizes != wanted or taken["shape"][:1] not in (["batch"], [1]):
        yield f"{MANIFEST}: the preprocessing makes {shape}, the file takes {taken['shape']}"
    if taken["type"] != dtype:
        yield f"{MANIFEST}: the preprocessing makes {dtype}, the file takes {taken['type']}"
    lengths = {len(form["mean"]), len(form["std"])}
    if not shape or not lengths <= {1, shape[0]}:
        found = f"{form['mean'][:9]}, {form['std'][:9]}"
        yield f"{MANIFEST}: mean and std {found} do not fit {shape[:1]} channels"
    axes = {"NCTHW": 4, "NCHW": 3, "NHWC": 3, "NCL": 2, "NC": 1, "NT": 1}[form["layout"]]
    if len(shape) != axes or (form["layout"] == "NT") != (dtype == "int64"):
        yield f"{MANIFEST}: layout {form['layout']} for {dtype} items of shape {shape}"
    if (dtype == "int64") != (form.get("vocabulary", 0) > 0):
        yield f"{MANIFEST}: preprocessing.vocabulary is {form.get('vocabulary', 0)} for {dtype}"


def pixel_shape(form: Json) -> list[Json]:
    """Return the shape of pixels that a file takes which prepares them itself; None: any size."""
    channels, height, width = form["shape"]
    return [None, None, channels] if form["resize"] else [height, width, channels]


def _of_the_classes(manifest: Json) -> Iterator[str]:
    classes, given = manifest["classes"], manifest["outputs"][0]["shape"]
    if classes != manifest.get("preprocessing", {"classes": classes})["classes"]:
        yield f"{MANIFEST}: classes and preprocessing.classes are not the same names in one order"
    if len(set(classes)) != len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        yield f"{MANIFEST}: two classes are called {shown(twice)}"
    # Elsewhere classes may stand in another axis, or have one number for two of them.
    if classes and "task" not in manifest and given[-1:] != [len(classes)]:
        yield f"{MANIFEST}: {len(classes)} classes for outputs {given}"


def _of_the_numbers(manifest: Json) -> Iterator[str]:
    recorded, accuracy = manifest["recorded"], manifest["accuracy"]
    for name, value in {**accuracy, **recorded}.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number:
            continue
        is_share = name.startswith(("accuracy.", "agreement.")) and name not in UNBOUNDED
        may_be_less = name.startswith(("parity.", *MAY_BE_LESS))
        if not 0 <= value <= (1 if is_share else LARGE) and not may_be_less:
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
            yield f"{MANIFEST}: the budget {shown(budget['gate'])} judges {metric[:60]}"


def _of_the_golden(folder: Path, manifest: Json, tolerance: Json, shapes: Json) -> Iterator[str]:
    count = tolerance["num_items"]
    outputs, further = manifest["outputs"], tolerance.get("further", [])
    recorded = outputs[: 1 + len(further)]  # of old the first output alone
    for name, found, ports in zip(ARRAYS, shapes, (data_ports(manifest), recorded)):  # noqa: B905 - Python 3.9
        if len(found) != len(ports):
            yield f"{name} holds {len(found)} arrays, expected {len(ports)}"
        for shape, port in zip(found, ports):  # noqa: B905 - Python 3.9
            sizes = port["shape"][1:] if takes_rows(port) else port["shape"]
            wanted = (count, *(1 if size == "batch" else size for size in sizes))
            if len(shape) != len(wanted) or _closed(wanted, shape) != shape:
                yield f"{name} has shape {shape}, expected {wanted}"
    if len(further) != len(outputs) - 1 and manifest["schema_version"] > 1:
        yield f"{TOLERANCE}: {len(further)} further outputs of {len(outputs) - 1}"
    for place, told in enumerate([tolerance, *further]):
        yield from _of_a_tolerance(folder, manifest, told, place)
    items, of_outputs = tolerance["top1_items"], shapes[1][:1] or [(count,)]
    number = math.prod(of_outputs[0][:-1])
    if len(set(items)) != len(items) or any(i >= number for i in items):
        yield f"{TOLERANCE}: top1_items names an item twice, or one that is not there"


def _closed(wanted: tuple[Json, ...], found: tuple[int, ...]) -> tuple[int, ...]:
    """Return the sizes that are wanted, those found where any will do."""
    return tuple(size if isinstance(size, int) else found[axis] for axis, size in enumerate(wanted))


def _of_a_tolerance(folder: Path, manifest: Json, told: Json, place: int) -> Iterator[str]:
    if told["floor_of_std"] == QUANTIZED_FLOOR and not manifest["model"]["is_quantized"]:
        yield f"{TOLERANCE}: floor_of_std is {QUANTIZED_FLOOR}, and the model is not quantized"
    std, atol = told["output_std"], told["atol"]
    derived = max(told["floor_of_std"] * std, min(SPREAD_MARGIN * told["spread"], std))
    if atol > derived * CLOSE:  # outputs that are nearly one number have a floor of their own
        largest_output = largest(folder / "golden" / "outputs.npz", place)
        derived = max(derived, 1e-6 * largest_output, 1e-12)
    if not derived <= atol * CLOSE <= derived * CLOSE**2:
        yield (
            f"{TOLERANCE}: atol {atol:g} does not follow from its own numbers, which give "
            f"{derived:g} (the outputs' standard deviation is {std:g})"
        )
    if ("rms_atol" in told) != ("rms_spread" in told):
        yield f"{TOLERANCE}: rms_atol and rms_spread are given together"
    elif "rms_atol" in told:
        is_far = SPREAD_MARGIN * told["spread"] > std and atol <= std * CLOSE
        if not is_far and told["floor_of_std"] != QUANTIZED_FLOOR:
            yield f"{TOLERANCE}: rms_atol is for outputs of which single numbers move by more"
        half, margin = RMS_CAP * std, SPREAD_MARGIN * told["rms_spread"]
        derived, atol = max(told["floor_of_std"] * std, min(margin, half)), told["rms_atol"]
        if not derived <= atol * CLOSE <= derived * CLOSE**2:
            yield f"{TOLERANCE}: rms_atol {atol:g} does not follow from its own numbers"


def allowances(manifest: Json, threads: int) -> tuple[int, float]:
    """Return how many MB a self-test may take, and how many seconds, where nobody says.

    Both follow the budgets, above a floor; a stranger's budgets do not go beyond a ceiling.
    """
    bounds = {b["metric"]: b["bound"] for b in manifest["budgets"] if b["is_upper"]}
    megabytes = (2 * bounds.get("peak_memory", 0) + 8 * manifest["model"]["size"]) / 2**20
    slowest = max([bounds[m] for m in bounds if m.startswith("latency.")], default=0)
    return int(min(max(megabytes, 640 + 16 * threads), 4096)), min(max(120.0, 200 * slowest), 600.0)
