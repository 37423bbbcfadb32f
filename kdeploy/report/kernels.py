"""Which kernels really ran, file by file and runtime by runtime; what did not is said loudly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdeploy.report.comparison import Comparison, Row
from kdeploy.report.machine_facts import short_names
from kdeploy.report.wording import NOTHING

HEADERS = ("artefact", "runs on", "device", "INT8 kernels", "2:4 kernels", "what ran")
ALARMS = {
    "no_op_int8": "INT8 file, nothing ran as INT8",
    "sparse_not_used": "2:4 file, no sparse kernel",
    "fallback": "parts fell back to another device or provider",
    "emulated": "computed by stand-ins, not by its kernels",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelProof:
    """One file in one runtime on one machine; of several batch sizes the worst."""

    row: Row
    texts: tuple[str, ...]
    alarms: tuple[str, ...]


def proofs(comparison: Comparison) -> list[KernelProof]:
    """Return a proof for each file and runtime, none where every file is plain floating point."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in comparison.rows:
        if row.runtime and not row.skipped:
            key = (row.label, row.profile, row.runtime, row.device, row.machine)
            groups.setdefault(key, []).append(row)
    names = short_names(comparison.machines)
    found = [_proof(rows, names[rows[0].machine]) for rows in groups.values()]
    says_something = any(p.alarms or p.texts[3:5] != (NOTHING, NOTHING) for p in found)
    return found if says_something else []


def alarms(comparison: Comparison) -> list[str]:
    """Return what must not be overlooked: files whose kernels did not run, each in a sentence."""
    several = len(comparison.machines) > 1
    found: dict[str, list[str]] = {}
    for proof in proofs(comparison):
        for alarm in proof.alarms:
            label, runtime, machine = proof.texts[:3]
            place = f"{runtime} on {machine}" if several else runtime
            found.setdefault(alarm, []).append(f"{label} in {place}")
    return [f"{alarm}: {'; '.join(where)}." for alarm, where in found.items()]


def _proof(rows: Sequence[Row], machine: str) -> KernelProof:
    row = rows[0]
    flags = {flag for each in rows for flag in each.flags}
    raised = tuple(text for flag, text in ALARMS.items() if flag in flags)
    integer, sparse = (_worst(rows, m) for m in ("integer_kernels", "sparse_kernels"))
    ran = [kind for kind, share in (("INT8", integer), ("2:4", sparse)) if share != NOTHING]
    device = f" ({row.device})" if row.device not in ("", "cpu") else ""
    label = f"{row.label} (profile {row.profile})" if row.profile else row.label
    text = "; ".join(raised) or (" and ".join(ran) or "floating point")
    return KernelProof(
        row=row,
        texts=(label, f"{row.runtime}{device}", machine, integer, sparse, text),
        alarms=raised,
    )


def _worst(rows: Sequence[Row], metric: str) -> str:
    """Return how many of the eligible operators ran so, in the batch size where fewest did."""
    records = [row.values[metric].record for row in rows if metric in row.values]
    shares = [(r.value, r.n) for r in records if r.value is not None]
    if not shares:
        return NOTHING
    share, count = min(shares)
    return f"{round(share * count)} of {count} ({share * 100:.0f} %)"
