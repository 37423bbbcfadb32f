"""Bundles changed at random, through `kdeploy verify` with the runner in Python, and through C++.

    python -m benchmarks.suites.mutated_bundles [--mutants 10000] [--seed 1] [--minutes 10]

`bundles` are read as `kdeploy verify` reads them, the runner in Python included; `cpp` by the
runner in C++ under AddressSanitizer and UndefinedBehaviorSanitizer (skipped where it cannot be
built). Each mutant is tried in a process of its own with limits, as in `make fuzz`. They come in
lots of 250, a seed each; a finished lot is a line of `rows.jsonl` in the work folder and is not
tried again, so a call with `--minutes` goes on where the last one ended. Faults are kept in the
folder `failures` beside it. Exits 1 on a traceback, an accepted change, a hang, or more than 1 GB.
"""

from __future__ import annotations

import importlib
import sys
import time
import warnings
from typing import Any

from benchmarks.shared.running import (
    add_row,
    conclude,
    conditions,
    grouped,
    here,
    parser_of,
    rows_of,
    table,
)
from tests.fuzz.harness import FAULTS, OUTCOMES, tried

KINDS = ("bundles", "cpp")
LOT = 250
SEEDS_APART = 1000  # more lots than one seed ever gets


def main() -> None:
    """Try the lots that are missing, then write the table and judge it."""
    warnings.simplefilter("ignore")
    parser = parser_of(__doc__ or "", work="mutated_bundles")
    parser.add_argument("--mutants", type=int, default=10_000, help="of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no lot after")
    given = parser.parse_args()
    until, store = time.monotonic() + 60 * given.minutes, given.work / "rows.jsonl"
    kinds = [kind for kind in KINDS if not _missing(kind)]
    for number in range(-(-given.mutants // LOT)):
        for kind in kinds:
            lot = {"kind": kind, "seed": given.seed * SEEDS_APART + number}
            is_done = any(lot.items() <= row.items() for row in rows_of(store))
            if not is_done and time.monotonic() < until:
                add_row(store, {**lot, **_tried(kind, lot["seed"], given.work / "failures")})
    rows = rows_of(store)
    faults = sum(row[outcome] for row in rows for outcome in FAULTS)
    conclude("mutated_bundles", {"rows": rows}, _page(rows, given.seed), holds=not faults)


def _missing(kind: str) -> str:
    module = importlib.import_module(f"tests.fuzz.mutate_{kind}")
    reason = str(getattr(module, "missing", str)())
    if reason:
        print(f"{kind} skipped: {reason}", file=sys.stderr)
    return reason


def _tried(kind: str, seed: int, failures: Any) -> dict[str, Any]:
    """Return what became of the mutants of one lot."""
    module = importlib.import_module(f"tests.fuzz.mutate_{kind}")
    tally = tried(kind, module.mutants(seed, LOT), module.read, keep=failures / str(seed))
    return {
        "mutants": len(tally.outcomes),
        **{outcome: tally.count(outcome) for outcome in OUTCOMES},
        "peak_bytes": max(o.peak_bytes for o in tally.outcomes),
        "slowest_seconds": max(o.seconds for o in tally.outcomes),
        "wall_seconds": tally.wall_seconds,
    }


def _page(rows: list[dict[str, Any]], seed: int) -> str:
    cells = []
    for (kind,), lots in grouped(rows, "kind").items():
        counts = [sum(lot[name] for lot in lots) for name in ("mutants", *OUTCOMES)]
        cells.append(
            [
                kind,
                *map(str, counts),
                f"{max(lot['peak_bytes'] for lot in lots) / 1e6:.0f} MB",
                f"{max(lot['slowest_seconds'] for lot in lots):.1f} s",
                f"{sum(lot['wall_seconds'] for lot in lots):.0f} s",
            ]
        )
    most = max((int(row[1]) for row in cells), default=0)
    header = " | ".join(("kind", "mutants", *OUTCOMES, "most memory", "slowest", "all"))
    return "\n".join(
        [
            "# Mutated bundles, through verify and both runners",
            "",
            f"`python -m benchmarks.suites.mutated_bundles --mutants {most} --seed {seed}`;",
            f"{conditions(here(), 1)}.",
            "`bundles` are read as `kdeploy verify` reads them, the runner in Python included;",
            "`cpp` by the runner in C++ under AddressSanitizer and UndefinedBehaviorSanitizer.",
            "Faults are the columns traceback to memory (beyond 1 GB); what is taken is a change",
            "that nobody can know better than its maker, or no change.",
            "Times are of a machine that does other work.",
            "",
            *table(header, cells, right=range(1, 11)),
            "",
        ]
    )


if __name__ == "__main__":
    main()
