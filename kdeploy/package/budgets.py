"""Budgets of a bundle: gates as absolute bounds, so that a device can judge them alone.

The runner measures memory, latency, load time and size itself, at batch size 1. Accuracy and the
like need labelled data, so they are judged on the value that was recorded at packaging, and say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kdeploy.errors import InputError
from kdeploy.gate import Gate
from kdeploy.measurement import METRICS
from kdeploy.package.manifest import Budget
from kdeploy.package.runner.python.rules import DEVICE_METRICS


def recorded_values(accuracy: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics among what is known of the file."""
    known = {**facts, **accuracy}
    return {k: float(v) for k, v in known.items() if k in METRICS and v is not None}


def budgets_of(
    gates: Iterable[Gate], recorded: Mapping[str, float], baseline: Mapping[str, Any]
) -> tuple[Budget, ...]:
    """Return the gates as absolute bounds.

    Raises:
        InputError: a gate compares with a baseline that is not recorded, or its metric is
            neither measured by the runner nor recorded.
    """
    return tuple(_budget(gate, recorded, baseline) for gate in gates)


def check_budgets(gates: Iterable[Gate], recorded: Iterable[str], baseline: Iterable[str]) -> None:
    """Refuse, before there is a file, budgets that could not be judged on a device.

    Args:
        gates: The budgets.
        recorded: The metrics that will be known of the file,
        baseline: and of what it is compared with.

    Raises:
        InputError: as of `budgets_of`.
    """
    budgets_of(gates, dict.fromkeys(recorded, 1.0), dict.fromkeys(baseline, 1.0))


def _budget(gate: Gate, recorded: Mapping[str, float], baseline: Mapping[str, Any]) -> Budget:
    is_upper, bound = _absolute(gate, baseline)
    if gate.metric not in DEVICE_METRICS and gate.metric not in recorded:
        raise InputError(
            f"budget `{gate.text}`: {gate.metric} was not recorded for this file, and the "
            "bundle's runner cannot measure it",
            hint=f"measure it first, or choose among {', '.join(sorted(DEVICE_METRICS))}",
        )
    return Budget(
        gate=gate.text,
        metric=gate.metric,
        is_upper=is_upper,
        bound=bound,
        unit=METRICS[gate.metric].unit,
        judged="device" if gate.metric in DEVICE_METRICS else "recorded",
    )


def _absolute(gate: Gate, baseline: Mapping[str, Any]) -> tuple[bool, float]:
    """Return whether the bound is an upper one, and the bound."""
    if not gate.needs_baseline:
        return gate.form == "at_most", gate.bound
    reference = baseline.get(gate.metric)
    if reference is None or gate.metric in DEVICE_METRICS - {"size"}:
        raise InputError(
            f"budget `{gate.text}` compares with a baseline, which a device does not have",
            hint=f"write an absolute bound, e.g. `{gate.metric}: <= ...`, or make it a gate",
        )
    if gate.form == "lose":
        return False, float(reference) - gate.bound
    if gate.form == "grow":
        return True, float(reference) * (1 + gate.bound)
    is_upper = METRICS[gate.metric].better == "lower"
    return is_upper, float(reference) / gate.bound if is_upper else float(reference) * gate.bound
