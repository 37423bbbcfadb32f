"""Can a comparison be trusted: a file against itself, and against one that is 5 % slower.

    python benchmarks/suites/trust_comparisons.py [--same 100] [--same-seconds 1]
        [--slower 100] [--slower-seconds 10] [--threads 1]

The same file as both sides must be called different in at most 5 % of comparisons; one that was
made 5 % slower must be called slower in at least 90 %. The slower file is the same network with
nodes added that cost little more than their start: as many as make it 5 % slower. Their number is
tried until `--tune` comparisons, each in fresh processes, have a mean within 0.5 % of 1.05; that
mean is what the ratio is held against. Takes about 8 minutes for the file against itself and 55
for the slower one. One line a comparison goes to `rows.jsonl` in the work folder; what is there is
not repeated. Exits 1 when either fails.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from benchmarks.shared.running import (
    Row,
    add_row,
    conclude,
    conditions,
    here,
    parser_of,
    rows_of,
    table,
)
from benchmarks.shared.sized_files import write_convolutions
from kdeploy.bench.plan import Plan
from kdeploy.bench.run import ModelUnderTest, bench
from kdeploy.bench.stats import fraction, paired_ratio

NETWORK = {"channels": 32, "size": 16, "layers": 16}  # about 0.7 ms on one thread
AIM, TOLERANCE = 1.05, 0.005
FIRST_NODES, MOST_TRIES = 100, 8
CALLED_DIFFERENT, FOUND_SLOWER = 0.05, 0.90


def main() -> None:
    """Compare what is missing, write the result and judge it."""
    arguments = _arguments()
    store = arguments.work / "rows.jsonl"
    file = write_convolutions(arguments.work / "network.onnx", **NETWORK)
    for _ in range(len(_of(store, "same")), arguments.same):
        row = _compared(file, file, arguments.same_seconds, arguments)
        add_row(store, {"kind": "same", "seconds": arguments.same_seconds, **row})
    if arguments.slower:
        slower = _slower(file, store, arguments)
        for _ in range(len(_of(store, "slower")), arguments.slower):
            row = _compared(file, slower, arguments.slower_seconds, arguments)
            add_row(store, {"kind": "slower", "seconds": arguments.slower_seconds, **row})
    text = _table(store, conditions(here(), arguments.threads), arguments)
    conclude("trust_comparisons", {"rows": rows_of(store)}, text, holds=_holds(store))


def _compared(file: Path, other: Path, seconds: float, arguments: argparse.Namespace) -> Row:
    """Return how many times better the other is: above 1, faster."""
    models = [
        ModelUnderTest(artifact=label, label=label, path=path, format="onnx")
        for label, path in (("baseline", file), ("candidate", other))
    ]
    result = bench(
        models,
        Plan(
            runtimes=["onnxruntime_cpu"],
            threads=[arguments.threads],
            data=None,
            accuracy=False,
            minimum_seconds=seconds,
        ),
        baseline="baseline",
        out=arguments.work,
    )
    ratio = next(c for c in result.comparisons if c["metric"] == "latency.p50")
    flags = {flag for record in result.measurements for flag in record.flags}
    return {
        **{key: ratio[key] for key in ("ratio", "low", "high", "verdict")},
        "flags": sorted(flags - {"random_inputs"}),
        "load": here().load,
    }


def _slower(file: Path, store: Path, arguments: argparse.Namespace) -> Path:
    """Return a file that is 5 % slower: the last one tried, when that was so."""
    tries = _of(store, "tuning")
    path = arguments.work / "slower.onnx"
    while not tries or not _is_aimed(tries[-1]):
        if len(tries) == MOST_TRIES:
            sys.exit("no number of nodes gave a file that is 5 % slower: the machine is too noisy")
        nodes = _next_nodes(tries)
        write_convolutions(path, **NETWORK, extra_nodes=nodes)
        seconds = arguments.slower_seconds
        ratios = [_compared(file, path, seconds, arguments)["ratio"] for _ in range(arguments.tune)]
        mean = paired_ratio(ratios, [1.0] * len(ratios))
        row = {"kind": "tuning", "nodes": nodes, "seconds": seconds, "ratios": ratios}
        row |= {"ratio": mean.value, "low": mean.low, "high": mean.high}
        add_row(store, row)
        tries.append(row)
    return write_convolutions(path, **NETWORK, extra_nodes=tries[-1]["nodes"])


def _next_nodes(tries: list[Row]) -> int:
    """Return how many nodes to try: what they cost is in proportion to their number."""
    if not tries:
        return FIRST_NODES
    cost = np.median([(1 / t["ratio"] - 1) / t["nodes"] for t in tries])
    return max(1, round((AIM - 1) / max(cost, 1e-6)))


def _is_aimed(row: Row) -> bool:
    return abs(1 / row["ratio"] - AIM) <= TOLERANCE


def _of(store: Path, kind: str) -> list[Row]:
    return [row for row in rows_of(store) if row["kind"] == kind]


def _holds(store: Path) -> bool:
    same, slower = _of(store, "same"), _of(store, "slower")
    return (not same or _share(same, {"faster", "slower"}) <= CALLED_DIFFERENT) and (
        not slower or _share(slower, {"slower"}) >= FOUND_SLOWER
    )


def _share(rows: list[Row], verdicts: set[str]) -> float:
    return sum(row["verdict"] in verdicts for row in rows) / len(rows)


def _table(store: Path, where: str, arguments: argparse.Namespace) -> str:
    command = " ".join(
        f"--{name.replace('_', '-')} {getattr(arguments, name):g}"
        for name in ("same", "same_seconds", "slower", "slower_seconds", "threads")
    )
    lines = [
        "# A file against itself, and against one that is 5 % slower",
        "",
        f"`python benchmarks/suites/trust_comparisons.py {command}`; {where}.",
        f"{NETWORK['layers']} convolutions of {NETWORK['channels']} channels at "
        f"{NETWORK['size']}x{NETWORK['size']}. Shares with Wilson's 95 % interval; a ratio is "
        "baseline / candidate.",
        "",
    ]
    header = (
        "comparison | n | a side | faster | slower | asked | ratio: median (5 % to 95 %) | "
        "interval holds it | half width"
    )
    tuned = [row for row in _of(store, "tuning") if _is_aimed(row)]
    truth = {"same": 1.0, "slower": tuned[-1]["ratio"] if tuned else 1 / AIM}
    asked = {"same": "different in <= 5 %", "slower": "slower in >= 90 %"}
    there = {kind: rows for kind in truth if (rows := _of(store, kind))}
    lines += table(
        header, ([kind, *_cells(rows, truth[kind], asked[kind])] for kind, rows in there.items())
    )
    if tuned:
        last = tuned[-1]
        times, low, high = (1 / last[name] for name in ("ratio", "high", "low"))
        lines += [
            "",
            f"The slower file has {last['nodes']} nodes more and takes {times:.4f} ({low:.4f} to "
            f"{high:.4f}) times as long, by {len(last['ratios'])} comparisons in fresh processes.",
        ]
    return "\n".join(lines) + "\n"


def _cells(rows: list[Row], true: float, asked: str) -> list[str]:
    ratios = np.array([row["ratio"] for row in rows])
    held = sum(row["low"] <= true <= row["high"] for row in rows) / len(rows)
    widths = [(row["high"] - row["low"]) / 2 / row["ratio"] for row in rows]
    low, middle, high = np.percentile(ratios, (5, 50, 95))
    return [
        str(len(rows)),
        f"{rows[0]['seconds']:g} s",
        *(_with_interval(_share(rows, {verdict}), len(rows)) for verdict in ("faster", "slower")),
        asked,
        f"{middle:.4f} ({low:.4f} to {high:.4f})",
        _with_interval(held, len(rows)),
        f"{np.median(widths):.2%}",
    ]


def _with_interval(share: float, count: int) -> str:
    found = fraction(share, count)
    return f"{share:.0%} ({found.low:.0%} to {found.high:.0%})"


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, work="trust_comparisons")
    parser.add_argument("--same", type=int, default=100, help="comparisons of a file with itself")
    parser.add_argument("--same-seconds", type=float, default=1.0, help="of timing a side")
    parser.add_argument("--slower", type=int, default=100, help="comparisons with the slower file")
    parser.add_argument("--slower-seconds", type=float, default=10.0, help="of timing a side")
    parser.add_argument("--tune", type=int, default=6, help="comparisons that tell how much slower")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
