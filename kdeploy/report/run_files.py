"""What the files of a run must hold where a report reads them; all other keys are free.

They travel between machines and are edited by hand, so nothing in them is taken on trust.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from kdeploy.errors import DataError
from kdeploy.untrusted.json_document import json_file

Number: TypeAlias = Annotated[float, Field(allow_inf_nan=False)] | None
Text: TypeAlias = str | None
HINT = "kdeploy writes such files; was it edited or cut off? Remove it to leave it out"


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Facts(_Part):
    parameters: Number = None
    macs: Number = None
    size: Number = None
    sparsity: Number = None
    report: dict[str, Any] | None = None


class _Scores(_Part):
    validation_accuracy: Number = None
    validation_accuracy_unrecovered: Number = None


class _Step(_Part):
    id: Text = None
    label: Text = None
    stage: Text = None
    technique: Text = None
    parameters: dict[str, Any] | None = None
    facts: _Facts | None = None
    scores: _Scores | None = None


class _Manifest(_Step):
    lineage: list[_Step] | None = None


class _Stage(_Part):
    artifact: Text = None
    wall_time_s: Number = None


class _Gate(_Part):
    gate: Text = None
    value: float | None = None
    passed: bool | None = None
    reason: Text = None


class _Seeds(_Part):
    accuracy: list[Annotated[float, Field(allow_inf_nan=False)]] = Field(min_length=1)


class _Summary(_Part):
    stages: list[_Stage] = []
    gates: list[_Gate] | None = None
    packaged: Text = None
    packaged_profile: Text = None
    chosen: Text = None
    chosen_because: Text = None
    cell: dict[str, Any] | None = None
    seeds: dict[str, _Seeds] | None = None
    command: Text = None


class _Machine(_Part):
    id: Text = None


class _Comparison(_Part):
    label: str
    baseline: str
    runtime: str
    metric: str
    ratio: float
    batch_size: int | None = None
    threads: int | None = None
    profile: Text = None
    scenario: str = ""
    input_shape: str = ""
    machine: str = ""
    low: float | None = None
    high: float | None = None
    verdict: Text = None
    flags: list[str] = []


class _Proof(_Part):
    label: str
    runtime: str
    profile: Text = None
    provider: Text = None
    layers: list[dict[str, Any]] | None = None
    operators: dict[str, int] | None = None


Probability: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Count: TypeAlias = Annotated[int, Field(ge=0)]


class _DifferingToken(_Part):
    before: str
    teacher_token: str
    teacher_probability: Probability
    teacher_probability_here: Probability
    token: str
    probability: Probability
    text_token: str = ""


class _NextTokens(_Part):
    label: str
    runtime: str
    profile: Text = None
    tokens: Count
    differing: Count
    near_ties: Count
    near_tie_margin: Probability
    divergence_nats: Number = None
    examples: list[_DifferingToken] = []


SHAPES: Mapping[str, TypeAdapter[Any]] = {
    "summary.json": TypeAdapter(_Summary),
    "manifest.json": TypeAdapter(_Manifest),
    "comparisons.json": TypeAdapter(list[_Comparison]),
    "proofs.json": TypeAdapter(list[_Proof]),
    "next_tokens.json": TypeAdapter(list[_NextTokens]),
}
MACHINE: TypeAdapter[Any] = TypeAdapter(_Machine)


def read_json(path: Path, missing: Any) -> Any:
    """Return what a file of a run says, `missing` where it is not there.

    Raises:
        DataError: it is no JSON, or a key holds what it must not; the key is named.
    """
    if not path.is_file():
        return missing
    content = json_file(path)
    try:
        SHAPES.get(path.name, MACHINE).validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        found = "" if first["type"] == "missing" else f", found `{first['input']!r}`"
        place = f"{key}: " if key else ""
        raise unreadable(path, f"{place}{first['msg'].lower()}{found}") from None
    return content


def unreadable(path: Path, reason: str) -> DataError:
    """Return the error for a file of a run that does not hold what it must."""
    return DataError(f"{path} cannot be read: {reason}", hint=HINT)
