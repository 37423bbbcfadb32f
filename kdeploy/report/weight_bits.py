"""What few bits cost each layer of a language model, and which layers have more of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdeploy.report.comparison import Comparison, LineageStep
from kdeploy.report.step_table import StepTable, tables_of_step

TOPIC, TRIALS = "int4_weights", "weight_bits"
FLOAT_BITS = 32
TOPICS = ("int4 weights", "weight bits")
"""As tables of steps are called, which the page shows here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerBits:
    """One layer: its bits, and the share of its outputs' power that rounding costs."""

    name: str
    bits: int
    error: float | None
    """Of a layer that got 8 bits for it, at 4 bits; None: nobody looked at its inputs."""
    text: str
    note: str = ""
    is_kept: bool = False
    """Whether it has more bits than the step gives by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightBits:
    """The layers of one step, the most sensitive first, and the trials that chose some of them."""

    label: str
    summary: str
    layers: tuple[LayerBits, ...]
    trials: StepTable | None = None

    @property
    def largest(self) -> float:
        """Return where the bars end."""
        return max((layer.error or 0.0 for layer in self.layers), default=0.0) or 1.0


def weight_bits(comparison: Comparison) -> list[WeightBits]:
    """Return the layers of each step that gave weights few bits; shared by artefacts, once."""
    found: dict[str, WeightBits] = {}
    for lineage in comparison.lineages:
        for step in lineage.steps:
            rows = (step.facts.get("report") or {}).get(TOPIC)
            if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
                found.setdefault(step.id, _of_step(step, rows, step.label or lineage.label))
    return list(found.values())


def _of_step(step: LineageStep, rows: Sequence[Mapping[str, Any]], label: str) -> WeightBits:
    bits = step.parameters.get("bits", 4)
    layers = [_layer(row, bits if isinstance(bits, int) else 4) for row in rows]
    # The most sensitive first; of those whose cost nobody measured, the ones with most bits.
    layers.sort(key=lambda layer: (layer.error is None, -(layer.error or 0.0), -layer.bits))
    counts = {n: sum(layer.bits == n for layer in layers) for n in sorted({x.bits for x in layers})}
    said = (
        f"{count} float" if number >= FLOAT_BITS else f"{count} at {number} bits"
        for number, count in counts.items()
    )
    tables = {table.topic: table for table in tables_of_step(step.facts)}
    return WeightBits(
        label=label,
        summary=f"{len(layers)} layers: {', '.join(said)}",
        layers=tuple(layers),
        trials=tables.get(TOPICS[1]),
    )


def _layer(row: Mapping[str, Any], usual: int) -> LayerBits:
    bits = row.get("bits") if isinstance(row.get("bits"), int) else usual
    assert isinstance(bits, int), "checked above"
    at_4 = _number(row.get("error_at_4_bits"))
    error = _number(row.get("output_error")) if at_4 is None else at_4
    note = f"{_bits(bits)}: {row['why']}" if row.get("why") else _bits(bits)
    return LayerBits(
        name=str(row.get("layer", "")),
        bits=bits,
        error=error,
        text="not measured" if error is None else f"{100 * error:.3g} %",
        note=note if at_4 is None else f"{note}; cost at 4 bits",
        is_kept=bits > usual,
    )


def _bits(bits: int) -> str:
    return "float" if bits >= FLOAT_BITS else f"{bits} bits"


def _number(value: Any) -> float | None:
    """Return a number as steps write it, which may be a text, empty for none."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if 0 <= found < float("inf") else None
