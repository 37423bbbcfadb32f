"""What a report says, as plain values: for JSON and for scripts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from kdeploy.gate import Verdict
from kdeploy.report.comparison import Comparison, Ratio, Row, VersionComparison
from kdeploy.report.wording import verdict_sentence


def document(comparison: Comparison) -> dict[str, Any]:
    """Return verdict, best configurations, changes, gates, machines, ratios and records."""
    tokens = [line for run in comparison.runs for line in run.next_tokens]
    return {
        "verdict": verdict_sentence(comparison),
        "baseline": comparison.baseline,
        "passed": comparison.passed,
        "best": [
            {
                **_place(choice.row),
                "passed": choice.passed,
                "configurations": choice.num_judged,
                "configurations_passed": choice.num_passed,
                "gates": _verdicts(choice.verdicts),
                "values": {
                    metric: value.record.value for metric, value in choice.row.values.items()
                },
            }
            for choice in comparison.best
        ],
        "against": _against(comparison.against) if comparison.against else None,
        "machines": dict(comparison.machines),
        "ratios": [
            {**_place(row), "metric": metric, **asdict(value.ratio)}
            for row in comparison.rows
            for metric, value in row.values.items()
            if value.ratio
        ],
        **({"next_tokens": tokens} if tokens else {}),
        "measurements": [record.to_dict() for record in comparison.records],
    }


def _against(against: VersionComparison) -> dict[str, Any]:
    return {
        "name": against.name,
        "rows": against.num_rows,
        "gone": [_place(row) for row in against.gone],
        "changes": [
            {
                **_place(change.row),
                "metric": change.metric,
                "before": change.value.baseline.value if change.value.baseline else None,
                "now": change.value.record.value,
                **asdict(change.value.ratio or Ratio(times=1.0)),
                "verdict": change.verdict,
            }
            for change in against.changes
        ],
        "gates": [{**_place(row), **verdict.to_dict()} for row, verdict in against.verdicts],
    }


def _verdicts(verdicts: Iterable[Verdict]) -> list[dict[str, Any]]:
    return [verdict.to_dict() for verdict in verdicts]


def _place(row: Row) -> dict[str, Any]:
    names = (
        *("artifact", "label", "profile", "machine", "runtime", "device"),
        *("batch_size", "threads", "scenario", "input_shape"),
    )
    return {name: getattr(row, name) for name in names}
