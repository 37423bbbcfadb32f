"""Data from shards beside the same in memory: resident memory, items a second, each item once.

    python benchmarks/suites/streaming_data.py [--items 100000] [--rounds 3] [--work runs/streaming]

Pictures of 32 x 32 (JPEG, quality 90) of Fashion-MNIST's items in tar shards of 5000, read where
they lie (`webdataset` as it is by default: decoded in the first epoch only), against the same
pixels as one array in memory (`arrays`). Each arm is a process of its own, which trains a small
network for a part of an epoch, reads the epoch to its end, trains for a part of the next, and then
shows all items of an epoch to nobody; the arms take turns. Asked: at most 1.5 GB resident, in later
epochs at least 0.9 of the items a second of processor time of the arm in memory, and that two
processes see each item once.
"""

from __future__ import annotations

import io
import json
import statistics
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.shared.running import conclude, conditions, here, parser_of, table

SIDE = 32
SHARD = 5000
TRAIN_STEPS = 300
BATCH = 128
MOST_BYTES = 1.5e9
LEAST_RATIO = 0.9


def main() -> None:
    """Write the shards once, measure both arms in turns, print the table."""
    parser = parser_of(__doc__, work="streaming")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arm", choices=("shards", "memory"))
    arguments = parser.parse_args()
    if arguments.arm:
        print(json.dumps(_measured(arguments.arm, arguments.work)))
        return
    _write(arguments.work, arguments.items)
    rows: list[dict[str, Any]] = []
    for number in range(arguments.rounds):
        arms = ("shards", "memory") if number % 2 == 0 else ("memory", "shards")
        rows += [_in_a_process(arm, arguments) for arm in arms]
        print(rows[-2:], file=sys.stderr)
    _conclude(rows, arguments.items)


def _in_a_process(arm: str, arguments: Any) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.suites.streaming_data", "--arm", arm]
    command += ["--work", str(arguments.work)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def _measured(arm: str, work: Path) -> dict[str, Any]:
    """Return what one arm takes: this runs in a process of its own."""
    import torch

    from kdeploy.data.load import DataReference, load
    from kdeploy.training.batches import TrainingBatches
    from kdeploy.training.processes import Processes

    parameters: dict[str, Any]
    if arm == "shards":
        parameters = {
            "shards": "train-*.tar", "test": "test.tar", "size": [SIDE, SIDE],
        }  # fmt: skip
        reference = DataReference(name="webdataset", parameters=parameters, folder=work.resolve())
    else:
        parameters = {"train": "train", "test": "test"}
        reference = DataReference(name="arrays", parameters=parameters, folder=work.resolve())
    start = time.perf_counter()
    data = load(reference)
    opened = time.perf_counter() - start
    made = {"device": torch.device("cpu"), "channels_last": False, "batch_size": BATCH}
    if arm == "memory":  # not the memory-mapped file that `arrays` reads
        from dataclasses import replace

        data = replace(data, train=replace(data.train, x=np.array(data.train.x)))
    first = _trained(TrainingBatches(data, **made))
    for start in range(0, len(data.train), SHARD):  # the rest of the first epoch
        data.train.x[start : start + SHARD]
    rate = _trained(TrainingBatches(data, **made))
    shown: list[int] = []
    for rank in range(2):
        batches = TrainingBatches(data, **made, processes=Processes(rank=rank, devices=2))
        for batch in batches.epoch([0, 0]):
            shown += batch.rows.tolist()
    whole = len(data.train) // BATCH * BATCH
    return {
        "arm": arm,
        "items": len(data.train),
        "opened_seconds": opened,
        "first_items_per_second": first,
        "items_per_second": rate,
        "peak_bytes": _peak_bytes(),
        "each_once": len(set(shown[:whole])) == min(whole, len(shown)) and len(shown) >= whole,
    }


def _trained(batches: Any) -> float:
    """Return the items a second of processor time, of some steps of training."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 24, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(24, 48, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10),
    )  # fmt: skip
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    items, start = 0, 0.0
    for step, batch in enumerate(batches.epoch([0, 0])):
        if step == 10:
            start = time.process_time()
        loss = nn.functional.cross_entropy(network(batch.x), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        items += len(batch.rows) if step >= 10 else 0
        if step == TRAIN_STEPS:
            break
    return items / (time.process_time() - start)


def _peak_bytes() -> int:
    text = Path("/proc/self/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _write(work: Path, items: int) -> None:
    """Write shards, and the same pixels as arrays, where they are not there yet."""
    from kdeploy.data.datasets.fashion_mnist import fashion_mnist

    done = work / f"{items}.done"
    if done.exists():
        return
    work.mkdir(parents=True, exist_ok=True)
    for old in work.glob("train-*.tar"):
        old.unlink()
    clothing = fashion_mnist()
    for part, count, split in (
        ("train", items, clothing.train),
        ("test", 1000, clothing.test),
    ):
        (work / part).mkdir(exist_ok=True)
        x = np.empty((count, 3, SIDE, SIDE), np.uint8)
        y = np.empty(count, np.int64)
        names = [f"train-{n:03}" for n in range(-(-count // SHARD))] if part == "train" else [part]
        for shard, name in enumerate(names):
            with tarfile.open(work / f"{name}.tar", "w") as tar:
                for row in range(shard * SHARD, min((shard + 1) * SHARD, count)):
                    jpeg, x[row] = _picture(split.x[row % len(split.x), 0], row)
                    y[row] = split.y[row % len(split.y)]
                    _add(tar, f"{row:08}.jpg", jpeg)
                    _add(tar, f"{row:08}.cls", str(y[row]).encode())
        np.save(work / part / "x.npy", x)
        np.save(work / part / "y.npy", y)
    done.touch()


def _picture(grey: Any, row: int) -> tuple[bytes, Any]:
    """Return a tinted picture as a JPEG, and what decoding it gives."""
    tint = np.random.default_rng(row).uniform(0.4, 1, 3)
    large = np.asarray(Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    stream = io.BytesIO()
    Image.fromarray((large[..., None] * tint).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue(), np.asarray(Image.open(stream)).transpose(2, 0, 1)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _conclude(rows: list[dict[str, Any]], items: int) -> None:
    machine = here()
    arms = {arm: [row for row in rows if row["arm"] == arm] for arm in ("shards", "memory")}
    ratios = [
        own["items_per_second"] / other["items_per_second"]
        for own, other in zip(arms["shards"], arms["memory"], strict=True)
    ]
    ratio = statistics.median(ratios)
    peak = max(row["peak_bytes"] for row in arms["shards"])
    once = all(row["each_once"] for row in rows)
    cells = [
        (
            arm,
            f"{statistics.median(r['first_items_per_second'] for r in own):.0f}",
            f"{statistics.median(r['items_per_second'] for r in own):.0f}",
            f"{max(r['peak_bytes'] for r in own) / 1e9:.2f}",
            f"{statistics.median(r['opened_seconds'] for r in own):.1f}",
        )
        for arm, own in arms.items()
    ]
    lines = [
        f"# Streaming: {items} pictures from shards",
        "",
        conditions(machine, 1),
        "",
        *table(
            "arm | items a second of processor time, first epoch | later ones | peak resident GB | "
            "opened in s",
            cells,
            right=range(1, 5),
        ),
        "",
        f"Made by `python benchmarks/suites/streaming_data.py --items {items} --rounds "
        f"{len(ratios)}`. Shards over memory in later epochs, median of rounds: {ratio:.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}); asked {LEAST_RATIO}. Two processes saw each "
        f"item {'once' if once else 'not once'}.",
        "",
    ]
    holds = ratio >= LEAST_RATIO and peak <= MOST_BYTES and once
    conclude("streaming_data", {"rows": rows}, "\n".join(lines), holds=holds)


if __name__ == "__main__":
    main()
