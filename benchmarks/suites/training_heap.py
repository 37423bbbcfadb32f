"""Processor time and peak memory of training steps, with freed memory kept and without.

    python -m benchmarks.suites.training_heap [--rounds 5] [--only student encoder decoder]

Steps of three networks in bfloat16 on one thread: the Fashion-MNIST student at 128 pictures, a
BERT of the shape of all-MiniLM-L6-v2 at 64 texts of 24 tokens, a Llama of the shape of
SmolLM2-135M at one text of 512 tokens. In one process both ways take turns; what counts is user and
system time. Peaks are of processes of their own. Asked: at most 0.95 of the time in the median of
the networks, and at most 1.1 of the peak for each.
"""

from __future__ import annotations

import contextlib
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.shared.running import conclude, conditions, here, parser_of, table

NETWORKS = {"student": 5, "encoder": 5, "decoder": 2}
"""Networks, and how many steps are one measurement."""
MOST_TIME, MOST_PEAK = 0.95, 1.1
WAYS = ("as glibc does", "kept")


def main() -> None:
    """Measure the networks, print the table."""
    parser = parser_of(__doc__, only=NETWORKS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "WAY"))
    given = parser.parse_args()
    if given.one:
        print(json.dumps(_measured(*given.one, given.rounds)))
        return
    rows = [_row(name, given.rounds) for name in given.only or NETWORKS]
    time = statistics.median(row["ratio"] for row in rows)
    cells = [
        (
            row["network"],
            f"{row['ratio']:.3f} ({min(row['ratios']):.3f} to {max(row['ratios']):.3f})",
            *(f"{row['system'][way]:.0%}" for way in WAYS),
            *(f"{row['peak'][way] / 1e6:.0f}" for way in WAYS),
        )
        for row in rows
    ]
    header = "network | time, kept / not | in the kernel | kept | peak, MB | kept"
    lines = [
        "# Training steps with freed memory kept",
        "",
        f"`python -m benchmarks.suites.training_heap --rounds {given.rounds}`;",
        f"{conditions(here(), 1)}. Median of the rounds, least and most in brackets.",
        "",
        *table(header, cells, right=range(1, 6)),
        "",
    ]
    peaks = [row["peak"]["kept"] / row["peak"][WAYS[0]] for row in rows]
    holds = time <= MOST_TIME and max(peaks) <= MOST_PEAK
    conclude("training_heap", {"rows": rows}, "\n".join(lines), holds=holds)


def _row(name: str, rounds: int) -> dict[str, Any]:
    found = {way: _in_a_process(name, way, rounds) for way in ("both", *WAYS)}
    print(name, found, file=sys.stderr)
    both = found["both"]
    return {
        "network": name,
        "ratios": both["ratios"],
        "ratio": statistics.median(both["ratios"]),
        "system": both["system"],
        "peak": {way: found[way]["peak_bytes"] for way in WAYS},
    }


def _in_a_process(name: str, way: str, rounds: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.suites.training_heap", "--one", name, way]
    command += ["--rounds", str(rounds)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _measured(name: str, way: str, rounds: int) -> dict[str, Any]:
    """Return what a network takes one way, or both ways in turns."""
    from kdeploy.system.heap import freed_memory_kept

    step, count = _step_of(name), NETWORKS[name]
    ways = {WAYS[0]: contextlib.nullcontext, WAYS[1]: freed_memory_kept}
    taken: dict[str, list[tuple[float, float]]] = {w: [] for w in ways if way in (w, "both")}
    for _ in range(rounds):
        for one in taken:
            with ways[one]():
                step()  # the first one fills the heap
                taken[one].append(_cost(step, count))
    found: dict[str, Any] = {
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "system": {
            w: statistics.median(system / whole for whole, system in costs)
            for w, costs in taken.items()
        },
    }
    if way == "both":
        pairs = zip(*taken.values(), strict=True)
        found["ratios"] = [kept[0] / plain[0] for plain, kept in pairs]
    return found


def _cost(step: Callable[[], None], count: int) -> tuple[float, float]:
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(count):
        step()
    after = resource.getrusage(resource.RUSAGE_SELF)
    system = after.ru_stime - before.ru_stime
    return after.ru_utime - before.ru_utime + system, system


def _step_of(name: str) -> Callable[[], None]:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, call = {"student": _student, "encoder": _encoder, "decoder": _decoder}[name]()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = call(model)
        out.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _student() -> tuple[Any, Callable[[Any], Any]]:
    import torch

    from models.fashion_mnist.build import resnet

    x = torch.randn(128, 1, 28, 28)
    return resnet(), lambda model: model(x)


def _encoder() -> tuple[Any, Callable[[Any], Any]]:
    import torch
    from transformers import BertConfig, BertModel

    config = BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)
    ids = torch.randint(0, config.vocab_size, (64, 24))
    return BertModel(config), lambda model: model(input_ids=ids).last_hidden_state


def _decoder() -> tuple[Any, Callable[[Any], Any]]:
    import torch

    from benchmarks.suites.training_memory import VOCABULARY, _model

    ids = torch.randint(0, VOCABULARY, (1, 512))
    return _model(), lambda model: model(ids)


if __name__ == "__main__":
    main()
