"""Numbers in words: ratios, intervals, changes, and the verdict in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdeploy.errors import KdeployError
from kdeploy.gate import Verdict, parse_gate
from kdeploy.measurement import METRICS
from kdeploy.report.comparison import Comparison, MeasuredValue, Ratio, Row
from kdeploy.report.machine_facts import short_names
from kdeploy.units import format_quantity

NOTHING = "-"
MOST_NAMES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What one metric of the headline says against the baseline, and the numbers behind it."""

    metric: str
    text: str
    evidence: str
    verdict: str = ""


def title(comparison: Comparison) -> str:
    """Return the device, where it is about one; else the names of the runs, of many the first."""
    if comparison.name:
        return comparison.name
    names = list(dict.fromkeys(run.name for run in comparison.runs))
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def verdict_sentence(comparison: Comparison) -> str:
    """Return what was gained and lost, from the headline's row, in one sentence."""
    row = comparison.headline
    if row is None:
        return "There is nothing to compare with the baseline yet."
    subject = f"{row.label} on {where(row)}{_on_machine(row, comparison)}"
    found = claims(row)
    if not found:
        return f"{subject}: no metric of it was measured on the baseline {comparison.baseline} too."
    text = "; ".join(f"{claim.text} ({claim.evidence})" for claim in found)
    return f"{subject}, against {baseline_label(row)}: {text}."


def short_verdict(comparison: Comparison) -> str:
    """Return the verdict as one sentence without its evidence, which stands beside it."""
    row = comparison.headline
    found = {claim.metric: claim.text for claim in claims(row)} if row else {}
    if row is None or not found:
        return verdict_sentence(comparison)
    changes = [found[metric] for metric in ("latency.p50", "size") if metric in found]
    text = " and ".join(changes) or "measured"
    place = f"{where(row)}{_on_machine(row, comparison)}"
    accuracy = row.values.get("accuracy.top1")
    if accuracy is not None and accuracy.ratio is not None:
        text += f", with {found['accuracy.top1']} ({change(accuracy)})"
    return f"{row.label}: {text}, against {baseline_label(row)} on {place}."


def claims(row: Row) -> list[Claim]:
    """Return accuracy, speed, size and parameters against the baseline, as far as measured."""
    makers = {
        "accuracy.top1": _accuracy,
        "latency.p50": _speed,
        "size": _size,
        "parameters": _parameters,
    }
    found = []
    for metric, make in makers.items():
        value = row.values.get(metric)
        if value is not None and value.ratio is not None:
            text, evidence = make(value, value.ratio)
            found.append(
                Claim(metric=metric, text=text, evidence=evidence, verdict=value.ratio.verdict)
            )
    return found


def baseline_label(row: Row) -> str:
    """Return the label that a row was compared with, "" when nothing of it was."""
    return next((v.baseline.label for v in row.values.values() if v.baseline), "")


def _on_machine(row: Row, comparison: Comparison) -> str:
    """Return the machine of a row where there are several."""
    names = short_names(comparison.machines)
    return f", {names[row.machine]}" if len(names) > 1 else ""


def state_sentence(comparison: Comparison) -> str:
    """Return how many gates hold and what was packaged, "" when no summary says."""
    gates = [gate for run in comparison.runs for gate in run.gates]
    passed = sum(gate.passed for gate in gates)
    text = [f"{passed} of {len(gates)} gates passed."] if gates else []
    for run in comparison.runs:
        name = f" of {run.name}" if len(comparison.runs) > 1 else ""
        if run.packaged:
            text.append(f"Packaged{name}: {_label(run.packaged, comparison)}.")
        elif run.chosen:
            text.append(f"Chosen{name}, but not packaged: {_label(run.chosen, comparison)}.")
        elif run.has_summary:
            text.append(f"Nothing{name} was packaged.")
        if run.chosen_because:
            text.append(f"Why: {run.chosen_because.rstrip('.')}.")
        # A warning stands in the reason already.
        text += [f"Note: {n.rstrip('.')}." for n in run.notes if n not in run.chosen_because]
    return " ".join(text)


def gate_reason(gate: Verdict) -> str:
    """Return what was measured for a gate; a missing value says so."""
    if gate.reason:
        return gate.reason
    if gate.value is None:
        return "-" if gate.passed else "not measured"
    try:
        unit = METRICS[parse_gate(gate.gate).metric].unit
    except KdeployError:
        unit = ""
    return format_quantity(gate.value, unit)


def where(row: Row) -> str:
    """Return runtime, batch size and threads, and shape and scenario where they are said."""
    batch = f"batch {row.asked_batch}" if row.asked_batch is not None else ""
    threads = "" if row.threads is None else f"{row.threads} thread{'s' * (row.threads != 1)}"
    place = row.runtime or "no runtime"
    if row.device and row.device != "cpu":
        place = f"{place} ({row.device})"
    return ", ".join(
        part for part in (place, batch, threads, row.input_shape, row.scenario) if part
    )


def task(row: Row) -> str:
    """Return what was asked of a device, however it did it: batch size, input shape, scenario."""
    batch = f"batch {row.asked_batch}" if row.asked_batch is not None else ""
    parts = (batch, row.input_shape, row.scenario)
    return ", ".join(part for part in parts if part) or "any batch"


def times(ratio: float) -> str:
    """Return a factor with three significant digits: `12.3x`."""
    digits = 0 if ratio >= 100 else 1 if ratio >= 10 else 2
    return f"{ratio:.{digits}f}x"


def interval(value: MeasuredValue) -> str:
    """Return the 95 % interval of a value, "" when none is known."""
    low, high = value.record.low, value.record.high
    if low is None or high is None:
        return ""
    return span(quantity(low, value.record.unit), quantity(high, value.record.unit))


def ratio_interval(value: MeasuredValue) -> str:
    """Return the 95 % interval of the ratio, "" when none is known."""
    ratio = value.ratio
    if ratio is None or ratio.low is None or ratio.high is None:
        return ""
    return span(times(ratio.low), times(ratio.high))


def span(low: str, high: str) -> str:
    """Return `a to b`, the unit once where both have the same: `57.1 to 58.3 µs`."""
    number, _, unit = low.partition(" ")
    return f"{number} to {high}" if unit and high.endswith(f" {unit}") else f"{low} to {high}"


def quantity(value: float | None, unit: str) -> str:
    """Return a value as people read it; also rates, which have a unit of their own."""
    if value is not None and unit == "items/s":
        return f"{format_quantity(value, 'count')} items/s"
    return format_quantity(value, unit)


def change(value: MeasuredValue) -> str:
    """Return the note beside an absolute value: points for fractions, else the factor."""
    if value.ratio is None or value.record.value is None or value.baseline is None:
        return ""
    if value.record.unit == "fraction":
        return points(value.record.value - (value.baseline.value or 0.0))
    return times(value.ratio.times)


def points(difference: float) -> str:
    """Return a difference of fractions in percentage points, with its sign."""
    return f"{difference * 100:+.2f} pp"


def settings(parameters: Mapping[str, Any]) -> str:
    """Return the parameters of a step in one line."""
    return ", ".join(f"{key}={_plain(value)}" for key, value in parameters.items())


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {_plain(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_plain(v) for v in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _label(artifact: str, comparison: Comparison) -> str:
    labels = {row.artifact: row.label for row in comparison.rows}
    return labels.get(artifact, artifact)


def _accuracy(value: MeasuredValue, ratio: Ratio) -> tuple[str, str]:
    base = quantity(_base(value), "fraction")
    part = f"{ratio.times * 100:.1f} % of the baseline's"
    text = f"{quantity(value.record.value, 'fraction')} top-1 accuracy"
    return text, f"{change(value)}, {part} {base}"


def _speed(value: MeasuredValue, ratio: Ratio) -> tuple[str, str]:
    text = {
        "no difference": "no difference in speed",
        "slower": f"slower: {times(ratio.times)} the speed",
        "faster": f"{times(ratio.times)} faster",
    }.get(ratio.verdict, f"{times(ratio.times)} the speed")
    sure = ratio_interval(value)
    note = f"95 % interval {sure}" if sure else "interval unknown"
    return text, f"p50 {_instead(value)}, {note}"


def _size(value: MeasuredValue, ratio: Ratio) -> tuple[str, str]:
    is_smaller = ratio.times >= 1
    text = f"{times(ratio.times if is_smaller else 1 / ratio.times)}"
    return f"{text} {'smaller' if is_smaller else 'larger'}", _instead(value)


def _parameters(value: MeasuredValue, ratio: Ratio) -> tuple[str, str]:
    part = (value.record.value or 0.0) / (_base(value) or 1.0)
    word = "fewer" if part <= 1 else "more"
    return f"{abs(1 - part) * 100:.1f} % {word} parameters", _instead(value)


def _instead(value: MeasuredValue) -> str:
    unit = value.record.unit
    return f"{quantity(value.record.value, unit)} instead of {quantity(_base(value), unit)}"


def _base(value: MeasuredValue) -> float | None:
    return value.baseline.value if value.baseline else None
