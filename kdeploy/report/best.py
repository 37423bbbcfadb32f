"""The best configuration of each device: the fastest file, runtime and threads within the gates."""

from __future__ import annotations

from collections.abc import Sequence

from kdeploy.gate import Gate, Verdict, judge
from kdeploy.report.comparison import OFFLINE, BestConfiguration, Row

# What is best where requests come in this way; what comes one after the other, by latency.
RATES = {OFFLINE: "throughput", "server": "server_rate"}


def best_rows(rows: Sequence[Row], gates: Sequence[Gate] = ()) -> tuple[BestConfiguration, ...]:
    """Return the choice for each machine, batch size, scenario and input shape.

    Only these make two latencies comparable; runtime, device, precision and threads are what is
    chosen. Gates that compare do so with the baseline of the row's own configuration.
    """
    groups: dict[tuple[str | int | None, ...], list[Row]] = {}
    for row in [row for row in rows if row.runtime] or rows:
        key = (row.machine, row.asked_batch, row.scenario, row.input_shape)
        groups.setdefault(key, []).append(row)
    choices = [_choice(members, gates) for members in groups.values()]
    # Where nothing ran there is nothing to choose, but gates are missed.
    return tuple(c for c in choices if gates or c.row.number(metric_of(c.row)) is not None)


def _choice(rows: Sequence[Row], gates: Sequence[Gate]) -> BestConfiguration:
    rows = [row for row in rows if row.number(metric_of(row)) is not None] or rows
    verdicts = [_judged(row, gates) for row in rows]
    broken = [sum(not verdict.passed for verdict in of) for of in verdicts]
    order = [(num, _seconds(row)) for num, row in zip(broken, rows, strict=True)]
    index = order.index(min(order))
    return BestConfiguration(
        row=rows[index],
        passed=broken[index] == 0,
        num_passed=broken.count(0),
        num_judged=len(rows),
        verdicts=tuple(verdicts[index]),
    )


def metric_of(row: Row) -> str:
    """Return what the row is chosen by: its p50, or the rate that its scenario asks for."""
    return RATES.get(row.scenario, "latency.p50")


def _seconds(row: Row) -> float:
    value = row.number(metric_of(row)) or 0.0
    return 1 / value if row.scenario in RATES and value else value


def _judged(row: Row, gates: Sequence[Gate]) -> list[Verdict]:
    """Return a verdict a gate; the baseline is compared with itself."""
    records = [value.record for value in row.values.values()]
    teachers = [value.baseline for value in row.values.values() if value.baseline]
    return judge(gates, records, records if row.is_baseline else teachers)
