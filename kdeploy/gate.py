"""Gates: bounds on measurements, one grammar everywhere.

`METRIC: <= VALUE` (also `>=`), `METRIC: -1.0pp` (may lose at most, against the baseline),
`METRIC: +5%` (may grow at most), `METRIC: 3x` (at least this many times better).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from kdeploy.errors import RecipeError, UnknownName
from kdeploy.measurement import METRICS, Measurement, select
from kdeploy.units import format_quantity, parse_quantity

Form = Literal["at_most", "at_least", "lose", "grow", "times"]
_GATE = re.compile(
    r"\s*([\w.]+?)(?:\s*:\s*|\s+|(?=[<>]))"
    r"(<=|>=)?\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?\s*[A-Za-zµ%]*)\s*"
)
# A bound may leave out what the unit is per: `energy: <= 2mJ` is a bound in J/item.
COUNTED_BY = {"items/s": "count", "J/item": "J"}
LONGEST_GATE = 200  # characters: a pattern that backtracks must end
GRAMMAR = "`METRIC: <= 2ms`, `METRIC: -1.0pp`, `METRIC: +5%` or `METRIC: 3x`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One bound; `bound` is in the metric's stored unit, a fraction, or a factor."""

    text: str
    metric: str
    form: Form
    bound: float

    @property
    def needs_baseline(self) -> bool:
        return self.form in ("lose", "grow", "times")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A gate after judging: the value that was compared, None when it is missing."""

    gate: str
    value: float | None
    passed: bool
    reason: str
    label: str = ""
    """Whose value it is, where several are judged."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def parse_gate(text: str, *, where: str = "gate") -> Gate:
    """Return the gate that `text` says.

    Raises:
        RecipeError: `text` is not of the grammar.
        UnknownName: the metric does not exist.
    """
    # Bounded, because the expression takes time with the square of a long run of spaces.
    match = _GATE.fullmatch(str(text)) if len(str(text)) <= LONGEST_GATE else None
    if match is None:
        raise RecipeError(f"{where}: `{text}` is not a gate", hint=f"write {GRAMMAR}")
    metric, comparison, amount = match[1], match[2], match[3].strip()
    if metric not in METRICS:
        raise UnknownName.among("metric", metric, METRICS, where=f"{where} `{text}`")
    form, bound = _bound(text, metric, comparison, amount, where)
    return Gate(text=str(text).strip(), metric=metric, form=form, bound=bound)


def parse_gates(texts: Iterable[str], *, where: str = "gates") -> tuple[Gate, ...]:
    """Return all gates, in order."""
    return tuple(parse_gate(t, where=f"{where}[{i}]") for i, t in enumerate(texts))


def judge(
    gates: Iterable[Gate],
    candidate: Sequence[Measurement],
    baseline: Sequence[Measurement] = (),
    *,
    baseline_in: Mapping[str, Any] | None = None,
    **configuration: Any,
) -> list[Verdict]:
    """Return one verdict a gate; a missing measurement fails.

    Args:
        gates: What must hold.
        candidate: Measurements of one artefact.
        baseline: Measurements of the teacher, for gates that compare.
        baseline_in: The configuration of the baseline, where it is another one.
        configuration: Runtime, batch_size and threads to judge on; left out: the first record.
    """
    return [
        _judge(
            g,
            _value(candidate, g.metric, configuration),
            _value(baseline, g.metric, configuration if baseline_in is None else baseline_in),
            _why_missing(candidate, g.metric),
        )
        for g in gates
    ]


def _bound(
    text: str, metric: str, comparison: str | None, amount: str, where: str
) -> tuple[Form, float]:
    if not comparison and amount.endswith("x"):
        value, unit = parse_quantity(amount[:-1], where=where)
        if value > 0 and not unit:
            return "times", value
        raise RecipeError(f"{where}: `{text}` is not a gate on {metric}", hint=f"write {GRAMMAR}")
    value, unit = parse_quantity(amount, where=where)
    wanted = METRICS[metric].unit
    if comparison:
        if unit and unit not in (wanted, COUNTED_BY.get(wanted)):
            raise RecipeError(
                f"{where}: `{text}` has the wrong unit: {metric} is in {wanted or 'no unit'}",
                hint=f"write {GRAMMAR}",
            )
        return ("at_most" if comparison == "<=" else "at_least"), value
    if amount.endswith("pp") and wanted == "fraction" and value <= 0:
        return "lose", -value
    if amount.endswith("%") and value >= 0:
        return "grow", value
    raise RecipeError(f"{where}: `{text}` is not a gate on {metric}", hint=f"write {GRAMMAR}")


def _value(
    measurements: Sequence[Measurement], metric: str, configuration: Mapping[str, Any]
) -> float | None:
    # Accuracy does not depend on batch and threads, so it is measured once a runtime.
    coordinates = {"runtime": configuration["runtime"]} if "runtime" in configuration else {}
    exact = select(measurements, metric, **configuration)
    found = exact or (select(measurements, metric, **coordinates) if _per_runtime(metric) else [])
    return next((m.value for m in found if m.value is not None), None)


def _per_runtime(metric: str) -> bool:
    return metric.split(".")[0] in ("accuracy", "agreement", "parity") or metric.endswith("kernels")


def _why_missing(measurements: Sequence[Measurement], metric: str) -> str:
    """Return the reason that a record without a value gives, "" where there is none."""
    return next((m.skipped for m in measurements if m.metric == metric and m.skipped), "")


def _judge(gate: Gate, value: float | None, baseline: float | None, why: str = "") -> Verdict:
    def verdict(passed: bool, reason: str, missed: str = "") -> Verdict:
        text = reason if passed or not missed else f"{reason}, missed by {missed}"
        return Verdict(gate=gate.text, value=value, passed=passed, reason=text)

    if value is None:
        return verdict(False, f"{gate.metric} was not measured{f': {why}' if why else ''}")
    metric = METRICS[gate.metric]
    shown = format_quantity(value, metric.unit)
    if not gate.needs_baseline:
        passed = value <= gate.bound if gate.form == "at_most" else value >= gate.bound
        reason = f"{shown} against {format_quantity(gate.bound, metric.unit)}"
        return verdict(passed, reason, _distance(value, gate.bound, metric.unit))
    if baseline is None:
        return verdict(False, f"{gate.metric} of the baseline was not measured")
    shown = f"{shown} against the baseline's {format_quantity(baseline, metric.unit)}"
    if gate.form == "lose":
        limit = baseline - gate.bound
        passed = baseline - value <= gate.bound + 1e-12
        return verdict(passed, shown, _distance(value, limit, metric.unit))
    if gate.form == "grow":
        limit = baseline * (1 + gate.bound)
        return verdict(value <= limit, shown, _distance(value, limit, metric.unit))
    ratio = times_better(value, baseline, gate.metric)
    return verdict(ratio >= gate.bound, f"{ratio:.2f}x: {shown}", _distance(ratio, gate.bound, ""))


def _distance(value: float, limit: float, unit: str) -> str:
    """Return how far a value is from its limit; nothing of what is no number."""
    if not math.isfinite(value):
        return ""
    if unit == "fraction":
        return f"{abs(value - limit) * 100:.2g} pp"
    return f"{abs(value / limit - 1):.1%}" if limit else format_quantity(abs(value), unit)


def times_better(value: float, baseline: float, metric: str) -> float:
    """Return how many times better than the baseline: > 1 is better, whichever way that is."""
    worse, better = (baseline, value) if METRICS[metric].better == "lower" else (value, baseline)
    return worse / better if better else float("inf")
