"""A dynamic model as a file: ONNX files that are asked one after the other, and when to stop.

`NAME.dynamic` is a JSON document; its parts are beside it: `NAME.part-0.onnx`, `NAME.part-1.onnx`.
Each part gives logits. An item leaves at the first part whose score reaches that part's threshold;
the last part takes all that are left. The score is the largest probability, softmax(logits / T).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kdeploy.errors import DataError, FileMissing, ModelError
from kdeploy.onnx_graph.facts import count_parameters, inputs_of, outputs_of
from kdeploy.tensor_info import TensorInfo
from kdeploy.untrusted.json_document import json_file

FORMAT, VERSION = "dynamic", 1
SCORE = "largest_probability"
MOST_PARTS = 8
MOST_TEXT = 1000  # characters of a name
LEAST_TEMPERATURE, MOST_TEMPERATURE = 1e-3, 1e3
_HINT = "make it again: `kdeploy dynamic`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One of the ONNX files: where its inputs come from, and when its answer is final."""

    label: str
    """What people call it: of a cascade, the model's label."""
    sha256: str
    takes: Mapping[str, str]
    """For each of its inputs an input of the whole, or an output of an earlier part."""
    logits: str
    """Its output that the score is computed from: (batch, classes)."""
    temperature: float = 1.0
    """T of the score; > 0, no unit."""
    threshold: float | None = None
    """Of the score, 0 to 1; None: the last part, whose answer is always final."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicFile:
    """What a `.dynamic` file says."""

    kind: str
    """The technique that made it."""
    parts: tuple[Part, ...]
    calibration: Mapping[str, Any] = field(default_factory=dict)
    """How the thresholds were chosen: items, risk, confidence, what was seen."""
    score: str = SCORE

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, "version": VERSION, **asdict(self)}


def part_paths(path: Path, count: int) -> list[Path]:
    """Return where the parts of a file lie."""
    return [path.with_suffix(f".part-{number}.onnx") for number in range(count)]


def write_dynamic(file: DynamicFile, path: Path) -> None:
    """Write the document; the parts are beside it already."""
    path.write_text(json.dumps(file.to_dict(), indent=2, allow_nan=False) + "\n")


def read_dynamic(path: Path) -> DynamicFile:
    """Return what a file says; its parts are there, and fit one another by their names.

    Raises:
        FileMissing: a part is not there.
        ModelError: it is no such document.
    """
    try:
        found = json_file(path)
    except DataError as error:
        raise ModelError(error.message, hint=_HINT) from None
    file = _checked(path, found)
    for part in part_paths(path, len(file.parts)):
        if not part.is_file():
            raise FileMissing(
                f"{path} names {len(file.parts)} parts, and there is no {part.name} beside it",
                hint="copy a dynamic model with all of its parts",
            )
    return file


def dynamic_files(path: Path) -> list[Path]:
    """Return the document and its parts."""
    return [path, *part_paths(path, len(read_dynamic(path).parts))]


def dynamic_inputs(path: Path) -> tuple[TensorInfo, ...]:
    """Return what the whole takes: the inputs of the first part."""
    first = read_dynamic(path).parts[0]
    infos = {info.name: info for info in inputs_of(part_paths(path, 1)[0])}
    if set(infos) != set(first.takes):
        raise ModelError(f"{path} and its first part name other inputs", hint=_HINT)
    return tuple(_renamed(infos[own], of_whole) for own, of_whole in first.takes.items())


def dynamic_outputs(path: Path) -> tuple[TensorInfo, ...]:
    """Return what the whole gives: the logits, called as those of its first part."""
    first = read_dynamic(path).parts[0]
    for info in outputs_of(part_paths(path, 1)[0]):
        if info.name == first.logits:
            return (info,)
    raise ModelError(f"the first part of {path} has no output `{first.logits}`", hint=_HINT)


def dynamic_parameters(path: Path) -> int:
    """Return how many numbers all parts have learned."""
    paths = part_paths(path, len(read_dynamic(path).parts))
    return sum(count_parameters(part) for part in paths)


def _renamed(info: TensorInfo, name: str) -> TensorInfo:
    return TensorInfo(name=name, shape=info.shape, dtype=info.dtype)


def _checked(path: Path, found: Any) -> DynamicFile:
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ModelError(f"{path} is no dynamic model", hint=_HINT)
    if found.get("version") != VERSION or found.get("score") != SCORE:
        raise ModelError(
            f"{path} is of version {str(found.get('version'))[:20]} with the score "
            f"{str(found.get('score'))[:40]}; this kdeploy reads {VERSION} and {SCORE}",
            hint="pip install --upgrade kdeploy",
        )
    told = found.get("parts")
    if not isinstance(told, list) or not 2 <= len(told) <= MOST_PARTS:
        raise ModelError(f"{path} has no list of 2 to {MOST_PARTS} parts", hint=_HINT)
    parts = tuple(
        _part(path, number, one, is_last=number == len(told) - 1) for number, one in enumerate(told)
    )
    kind, calibration = found.get("kind"), found.get("calibration")
    if not isinstance(kind, str) or not _is_name(kind) or not isinstance(calibration, dict):
        raise ModelError(f"{path} does not say how it was made", hint=_HINT)
    return DynamicFile(kind=kind, parts=parts, calibration=calibration)


def _part(path: Path, number: int, told: Any, *, is_last: bool) -> Part:
    told = told if isinstance(told, dict) else {}
    takes, threshold = told.get("takes"), told.get("threshold")
    holds = {
        "label": _is_name(told.get("label")),
        "sha256": _is_name(told.get("sha256")),
        "takes": isinstance(takes, dict)
        and takes
        and all(map(_is_name, [*takes, *takes.values()])),
        "logits": _is_name(told.get("logits")),
        "temperature": _is_within(told.get("temperature"), LEAST_TEMPERATURE, MOST_TEMPERATURE),
        "threshold": threshold is None if is_last else _is_within(threshold, 0.0, 1.0),
    }
    for key, is_right in holds.items():
        if not is_right:
            raise ModelError(
                f"{path}: parts[{number}].{key} is {str(told.get(key))[:60]!r}, which is none",
                hint=_HINT,
            )
    return Part(**{key: told[key] for key in holds})


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MOST_TEXT


def _is_within(value: Any, low: float, high: float) -> bool:
    is_number = type(value) in (int, float) and math.isfinite(value)
    return is_number and low <= value <= high
