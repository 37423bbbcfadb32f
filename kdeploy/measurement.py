"""Measurements: one number on one artefact in one runtime on one machine, and how to keep them.

A record is one line of `measurements.jsonl`. The names and units of metrics are fixed here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdeploy import __version__
from kdeploy.errors import DataError, FileMissing, UnknownName
from kdeploy.untrusted.json_document import json_text

if TYPE_CHECKING:
    import pandas as pd

Better = Literal["lower", "higher"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What a metric's number means."""

    unit: str
    better: Better
    about: str
    needs: str = ""
    """What there has to be: "accuracy" to judge (of "tokens" also labels of them), a scenario, a
    "cuda" device, or what a compressor `makes`; "" for what every file has, or only the machine
    knows."""

    @property
    def is_judged(self) -> bool:
        """Whether it says how good answers are, of the task's metrics: what bench judges."""
        return self.needs in ("accuracy", "tokens")


METRICS: dict[str, Metric] = {
    "accuracy.top1": Metric(
        unit="fraction", better="higher", about="test images classified right", needs="accuracy"
    ),
    "accuracy.f1_macro": Metric(
        unit="fraction", better="higher", about="mean F1 over classes", needs="accuracy"
    ),
    "agreement.top1": Metric(
        unit="fraction", better="higher", about="same class as the teacher", needs="accuracy"
    ),
    "perplexity": Metric(
        unit="", better="lower", about="exp of the mean cross-entropy of tokens", needs="tokens"
    ),
    "agreement.mae": Metric(
        unit="", better="lower", about="mean distance to the teacher's values", needs="accuracy"
    ),
    "agreement.map": Metric(
        unit="fraction", better="higher", about="mean AP, the teacher as truth", needs="accuracy"
    ),
    "agreement.decisions": Metric(
        unit="fraction", better="higher", about="labels decided as the teacher", needs="accuracy"
    ),
    "agreement.next_token": Metric(
        unit="fraction", better="higher", about="same next token as the teacher", needs="accuracy"
    ),
    "divergence.next_token": Metric(
        unit="nat", better="lower", about="mean KL from the teacher's tokens", needs="accuracy"
    ),
    "agreement.miou": Metric(
        unit="fraction", better="higher", about="overlap with the teacher's masks", needs="accuracy"
    ),
    "agreement.pck": Metric(
        unit="fraction", better="higher", about="points near the teacher's", needs="accuracy"
    ),
    "agreement.cer": Metric(
        unit="fraction",
        better="lower",
        about="characters other than the teacher's",
        needs="accuracy",
    ),
    "agreement.recall_at_1": Metric(
        unit="fraction",
        better="higher",
        about="same nearest item as by the teacher",
        needs="accuracy",
    ),
    "agreement.spearman": Metric(
        unit="", better="higher", about="rank correlation with its similarities", needs="accuracy"
    ),
    "multi_label.map": Metric(
        unit="fraction", better="higher", about="mean average precision of labels", needs="accuracy"
    ),
    "multi_label.f1_macro": Metric(
        unit="fraction", better="higher", about="mean F1 over labels, at 0.5", needs="accuracy"
    ),
    "multi_label.f1_micro": Metric(
        unit="fraction",
        better="higher",
        about="F1 of all labels together, at 0.5",
        needs="accuracy",
    ),
    "segmentation.miou": Metric(
        unit="fraction", better="higher", about="mean over classes of TP / union", needs="accuracy"
    ),
    "segmentation.pixel_accuracy": Metric(
        unit="fraction", better="higher", about="pixels that get their class", needs="accuracy"
    ),
    "keypoints.pck": Metric(
        unit="fraction",
        better="higher",
        about="points found within 5 % of the image",
        needs="accuracy",
    ),
    "ctc.cer": Metric(
        unit="fraction",
        better="lower",
        about="characters wrong, missing or too many",
        needs="accuracy",
    ),
    "ctc.wer": Metric(
        unit="fraction", better="lower", about="words wrong, missing or too many", needs="accuracy"
    ),
    "tokens.f1": Metric(
        unit="fraction",
        better="higher",
        about="F1 of entities, exact span and type",
        needs="accuracy",
    ),
    "embedding.recall_at_1": Metric(
        unit="fraction",
        better="higher",
        about="nearest item is of the same group",
        needs="accuracy",
    ),
    "embedding.spearman": Metric(
        unit="", better="higher", about="rank correlation of pairs' likeness", needs="accuracy"
    ),
    "regression.mae": Metric(
        unit="", better="lower", about="mean error, in the target's unit", needs="accuracy"
    ),
    "regression.rmse": Metric(
        unit="", better="lower", about="root of the mean squared error", needs="accuracy"
    ),
    "regression.r2": Metric(
        unit="", better="higher", about="share of the variance explained", needs="accuracy"
    ),
    "detection.map": Metric(
        unit="fraction", better="higher", about="mean AP, overlaps 0.5 to 0.95", needs="accuracy"
    ),
    "detection.map50": Metric(
        unit="fraction", better="higher", about="mean AP at an overlap of 0.5", needs="accuracy"
    ),
    "early_share": Metric(unit="fraction", better="higher", about="left early", needs="dynamic"),
    "latency.mean": Metric(unit="s", better="lower", about="mean time of one batch"),
    "latency.p50": Metric(unit="s", better="lower", about="median time of one batch"),
    "latency.p90": Metric(unit="s", better="lower", about="90 % of batches are faster"),
    "latency.p99": Metric(unit="s", better="lower", about="99 % of batches are faster"),
    "device_latency.p50": Metric(
        unit="s", better="lower", about="median on the device, no copies", needs="cuda"
    ),
    "device_latency.p90": Metric(
        unit="s", better="lower", about="the same, 90 % are faster", needs="cuda"
    ),
    "device_latency.p99": Metric(
        unit="s", better="lower", about="the same, 99 % are faster", needs="cuda"
    ),
    "throughput": Metric(unit="items/s", better="higher", about="items a second, end to end"),
    "server_rate": Metric(
        unit="items/s", better="higher", about="most arrivals with p99 in limit", needs="server"
    ),
    "offline_batch_size": Metric(
        unit="count", better="higher", about="largest batch that fits", needs="offline"
    ),
    "size": Metric(unit="B", better="lower", about="bytes of the file"),
    "parameters": Metric(unit="count", better="lower", about="numbers that were learned"),
    "macs": Metric(unit="count", better="lower", about="multiply-accumulates for one item"),
    "peak_memory": Metric(unit="B", better="lower", about="VmHWM of the process that ran it"),
    "memory_over_runtime": Metric(unit="B", better="lower", about="peak, less that of no file"),
    "load_memory": Metric(unit="B", better="lower", about="the same, once the file is open"),
    "device_memory": Metric(
        unit="B", better="lower", about="accelerator memory of the process", needs="cuda"
    ),
    "arena_memory": Metric(unit="B", better="lower", about="RAM that a firmware sets aside"),
    "cold_start": Metric(unit="s", better="lower", about="process start to first answer"),
    "load_time": Metric(unit="s", better="lower", about="time to open the file"),
    "first_inference": Metric(unit="s", better="lower", about="time of the first batch"),
    "energy": Metric(unit="J/item", better="lower", about="energy of one item"),
    "parity.max_abs": Metric(unit="std", better="lower", about="largest error / output std"),
    "parity.cosine": Metric(unit="", better="higher", about="cosine of the outputs"),
    "integer_kernels": Metric(
        unit="fraction", better="higher", about="eligible ops run as INT8", needs="int8"
    ),
    "sparse_kernels": Metric(
        unit="fraction", better="higher", about="eligible ops run as 2:4", needs="two_four"
    ),
    "four_bit_kernels": Metric(
        unit="fraction", better="higher", about="products run on codes", needs="int4_weights"
    ),
    "generate.first_token": Metric(
        unit="s", better="lower", about="prompt to its first new token", needs="generate"
    ),
    "generate.prefill_rate": Metric(
        unit="tokens/s", better="higher", about="tokens of the prompt a second", needs="generate"
    ),
    "generate.decode_rate": Metric(
        unit="tokens/s", better="higher", about="1 / median time of a token", needs="generate"
    ),
    "generate.inter_token.p50": Metric(
        unit="s", better="lower", about="median time of a token", needs="generate"
    ),
    "generate.inter_token.p99": Metric(
        unit="s", better="lower", about="99 % of tokens are faster", needs="generate"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One record; `value` is None exactly when `skipped` says why."""

    artifact: str
    label: str
    metric: str
    value: float | None
    unit: str = ""
    stage: str = ""
    technique: str = ""
    runtime: str = ""
    device: str = ""
    profile: str = ""
    batch_size: int | None = None
    threads: int | None = None
    low: float | None = None
    high: float | None = None
    n: int = 1
    flags: tuple[str, ...] = ()
    machine: str = ""
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    kdeploy: str = __version__
    skipped: str | None = None
    scenario: str = "single_stream"
    """How requests came: one after the other, as one large batch, or at random (`server`)."""
    input_shape: str = ""
    """Of one item, `3x160x160`, where sizes were swept; else the data's own."""

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise UnknownName.among("metric", self.metric, METRICS)
        if not self.unit:
            object.__setattr__(self, "unit", METRICS[self.metric].unit)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON has it; `skipped` is left out where nothing was."""
        record = {name: getattr(self, name) for name in self.__dataclass_fields__}
        record["flags"] = list(self.flags)
        if self.skipped is None:
            del record["skipped"]
        return record

    def to_json(self) -> str:
        """Return the record as one line."""
        return json.dumps(self.to_dict())


LONGEST_LINE = 2**20  # bytes; a record is below 2 KiB
_NONE = type(None)
TYPES: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(Measurement.__dataclass_fields__, (str,)),
    **dict.fromkeys(("value", "low", "high"), (float, int, _NONE)),
    **dict.fromkeys(("batch_size", "threads"), (int, _NONE)),
    "n": (int,),
    "flags": (list,),
    "skipped": (str, _NONE),
}
"""What each key of a line may be."""
REQUIRED = frozenset(
    name
    for name, known in Measurement.__dataclass_fields__.items()
    if known.default is MISSING and known.default_factory is MISSING
)


def from_json(line: str) -> Measurement:
    """Return the record of one line; keys of later versions are ignored."""
    return _record(_checked(json_text(line)))


def write(measurements: Iterable[Measurement], path: Path) -> None:
    """Write all records, replacing the file in one step."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(m.to_json() + "\n" for m in measurements))
    partial.replace(path)


def read(path: Path) -> list[Measurement]:
    """Return the records of a `measurements.jsonl`, or of the one in a folder.

    Raises:
        FileMissing: there is no such file.
        DataError: a line is not a record.
    """
    return [_record(fields) for fields in _fields(path)]


def load(*paths: Path | str) -> pd.DataFrame:
    """Return the records of all paths as one table, a column a field.

    Raises:
        FileMissing: a path has no measurements.
        DataError: a line is not a record.
    """
    import pandas as pd

    rows = [fields for path in paths for fields in _fields(Path(path))]
    missing = {name: _default(name) for name in Measurement.__dataclass_fields__}
    # Column by column: a record's object a line would cost more than reading the line.
    columns = {name: [r.get(name, default) for r in rows] for name, default in missing.items()}
    columns["flags"] = [tuple(flags) for flags in columns["flags"]]
    units = {name: metric.unit for name, metric in METRICS.items()}
    columns["unit"] = [r.get("unit") or units.get(r["metric"], "") for r in rows]
    return pd.DataFrame(columns)


def _record(fields: Mapping[str, Any]) -> Measurement:
    known = {k: v for k, v in fields.items() if k in Measurement.__dataclass_fields__}
    return Measurement(**{**known, "flags": tuple(known.get("flags", ()))})


def _default(name: str) -> Any:
    """Return what a record without this key has; "" for what depends on when it was made."""
    default = Measurement.__dataclass_fields__[name].default
    return "" if default is MISSING else default


def _fields(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the keys of each line; what is no record is an error with its place."""
    file = path / "measurements.jsonl" if path.is_dir() else path
    if not file.is_file():
        raise FileMissing(
            f"there are no measurements at {file}",
            hint="name the folder of a run, or its measurements.jsonl",
        )
    with file.open("rb") as lines:
        for number, line in enumerate(iter(lambda: lines.readline(LONGEST_LINE), b""), start=1):
            try:
                yield _checked(json_text(line))
            except (ValueError, UnknownName) as error:
                raise DataError(
                    f"{file}, line {number} is not a measurement: {error}",
                    hint="`kdeploy bench` writes such files; was it edited or cut off?",
                ) from None


def _checked(fields: Any) -> dict[str, Any]:
    """Return the keys of a record.

    Raises:
        ValueError: one is missing, or holds what it must not.
    """
    if not isinstance(fields, dict):
        raise ValueError(f"expected keys and values, found {type(fields).__name__}")
    if not fields.keys() >= REQUIRED:
        raise ValueError(f"it has no {', '.join(sorted(REQUIRED - fields.keys()))}")
    for key, value in fields.items():
        types = TYPES.get(key)
        # True is an int to Python, and no number to anybody else.
        is_wrong = types is not None and type(value) not in types
        if is_wrong or (key == "flags" and not all(isinstance(flag, str) for flag in value)):
            raise ValueError(f"`{key}` is `{value!r}`")
    if fields["metric"] not in METRICS:
        raise UnknownName.among("metric", fields["metric"], METRICS)
    return fields


def select(
    measurements: Sequence[Measurement], metric: str, **coordinates: Any
) -> list[Measurement]:
    """Return the records of one metric whose fields equal `coordinates`.

    A record without a runtime (size, parameters, macs) matches any runtime, batch and threads.
    """
    free = {"runtime", "batch_size", "threads", "device"}
    return [
        m
        for m in measurements
        if m.metric == metric
        and all(
            getattr(m, key) == wanted or (key in free and getattr(m, key) in ("", None))
            for key, wanted in coordinates.items()
        )
    ]


def flagged(measurement: Measurement, *flags: str) -> Measurement:
    """Return the record with further flags."""
    return replace(measurement, flags=(*measurement.flags, *flags))
