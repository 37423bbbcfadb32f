"""Try thousands of mutants: `python -m tests.fuzz [--mutants N] [--seed S] [--kind K]...`.

Exit code 0 when there was no traceback, no accepted change, no hang and nothing beyond 1 GB.
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
import time
import warnings
from pathlib import Path

from tests.fuzz.harness import HEADER, tried

# The share of all mutants that a kind gets.
KINDS = {"bundles": 0.3, "onnx": 0.3, "store": 0.15, "recipes": 0.15, "runs": 0.1, "cpp": 0.1}


def main() -> int:
    """Run the command line and return the exit code."""
    warnings.simplefilter("ignore")
    given = _parsed()
    print(f"seed {given.seed}: `make fuzz SEED={given.seed} MUTANTS={given.mutants}`", flush=True)
    until = time.monotonic() + given.seconds
    tallies = []
    print(HEADER, flush=True)
    for kind in given.kind or KINDS:
        module = importlib.import_module(f"tests.fuzz.mutate_{kind}")
        if reason := getattr(module, "missing", str)():
            print(f"| {kind} | skipped: {reason} |", flush=True)
            continue
        count = max(1, round(given.mutants * KINDS[kind]))
        mutants = module.mutants(given.seed, count)
        tally = tried(kind, mutants, module.read, keep=given.keep, until=until)
        tallies.append(tally)
        print(tally.row(), flush=True)
    faults = [fault for tally in tallies for fault in tally.faults]
    for fault in faults[:20]:
        print(f"\n{fault.outcome}: {fault.name}\n{fault.detail[-1500:]}")
    if faults:
        print(f"\n{len(faults)} faults; they are kept in {given.keep}")
    return 1 if faults else 0


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser("tests.fuzz", description=(__doc__ or "").split("\n")[0])
    option = parser.add_argument
    option("--mutants", type=int, default=3000)
    option("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    option("--kind", action="append", choices=list(KINDS))
    option("--seconds", type=float, default=float("inf"), help="begin none after so long")
    option("--keep", type=Path, default=Path("fuzz-failures"), help="where faults are kept")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
