"""What was measured of a file and of the teacher, as a bundle says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdeploy.measurement import Measurement, select
from kdeploy.pipeline.exported import Exported
from kdeploy.pipeline.packaging import BundleDescription
from kdeploy.store.artifact import Artifact


def bundle_description(
    chosen: Exported,
    teacher: Artifact,
    records: Sequence[Measurement],
    cell: Mapping[str, Any],
    *,
    name: str,
    because: str,
) -> BundleDescription:
    """Return what a bundle says, measured in the cell where gates are judged."""
    there = [r for r in records if r.runtime == cell["runtime"] and r.value is not None]
    own = [r for r in there if (r.artifact, r.profile) == (chosen.model.id, chosen.profile)]
    others = [r for r in there if r.artifact == teacher.id and r not in own]
    accuracy = _values(own, ("accuracy", "agreement", "perplexity"))
    baseline = _values(others, ("accuracy", "perplexity"))
    p50 = next(iter(select(own, "latency.p50", **cell)), None)
    latency = {"latency.p50": p50.value, "latency measured in": _place(p50)} if p50 else {}
    return BundleDescription(
        name=name,
        accuracy={**accuracy, **({"baseline": baseline} if baseline else {})},
        latency=latency,
        chosen_because=because,
    )


def _values(records: Sequence[Measurement], kinds: tuple[str, ...]) -> dict[str, float | None]:
    return {r.metric: r.value for r in reversed(records) if r.metric.startswith(kinds)}


def _place(record: Measurement) -> str:
    threads = "all threads" if record.threads is None else f"threads {record.threads}"
    return f"{record.runtime}, batch {record.batch_size}, {threads}, n = {record.n}"
