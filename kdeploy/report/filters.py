"""What the page can be narrowed to: machine, artefact, runtime, and what was asked of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kdeploy.report.comparison import Comparison, Row
from kdeploy.report.machine_facts import short_names

ANY = "-"
# Two latencies compare only at one load, so the page opens at the headline's.
OF_LOAD = ("batch size", "threads", "input", "scenario")
OF_PLACE = ("machine", "artefact", "runtime")


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One choice: its name, its options, and which of them the page opens with."""

    name: str
    options: tuple[str, ...]
    initial: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """The axes on which the rows differ; `of` says where on each a row stands."""

    axes: tuple[Axis, ...]
    machines: Mapping[str, str]

    def of(self, row: Row, names: tuple[str, ...] = OF_PLACE + OF_LOAD) -> str:
        """Return the row's option on each axis, `-` where every option is meant."""
        own = _values(row, self.machines)
        return " ".join(
            str(axis.options.index(own[axis.name]))
            if own[axis.name] and axis.name in names
            else ANY
            for axis in self.axes
        )


def filters_of(comparison: Comparison) -> Filters:
    """Return the filters that change what is shown."""
    machines = short_names(comparison.machines)
    values = [_values(row, machines) for row in comparison.rows]
    first = _values(comparison.headline, machines) if comparison.headline else {}
    axes = []
    for name in OF_PLACE + OF_LOAD:
        options = tuple(dict.fromkeys(own[name] for own in values if own[name]))
        if name in OF_LOAD:
            options = tuple(sorted(options, key=lambda text: (len(text), text)))
        opens_with = first.get(name) if name in OF_LOAD else None
        if len(options) > 1:
            initial = options.index(opens_with) if opens_with in options else None
            axes.append(Axis(name=name, options=options, initial=initial))
    return Filters(axes=tuple(axes), machines=machines)


def _values(row: Row, machines: Mapping[str, str]) -> dict[str, str]:
    device = f" ({row.device})" if row.device not in ("", "cpu") else ""
    return {
        "machine": machines.get(row.machine, row.machine),
        "artefact": row.label,
        "runtime": f"{row.runtime}{device}",
        "batch size": "" if row.asked_batch is None else str(row.asked_batch),
        "threads": "" if row.threads is None else str(row.threads),
        "input": row.input_shape,
        "scenario": row.scenario or "single_stream",
    }
