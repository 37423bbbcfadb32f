"""How fast a student learns: against the tutorials' loop, and loss against loss.

    python benchmarks/suites/distillation_throughput.py [--rounds 5] [--out FILE]

The shipped Fashion-MNIST teacher (width 32, depth 3), a student of width 8, depth 1, batch 128,
random crop and flip. All candidates take turns in one process, in an order that turns round each
time. Of a turn's three epochs (or runs of 15 steps) the fastest counts, for what else the machine
does only makes slower; a ratio is the median of the rounds' ratios, with their quartiles.

1. The loop that tutorials show: float32, contiguous, the teacher on every batch, `.item()` every
   step; against an epoch of ours that asks the teacher, and one that reads its kept answers.
2. Every loss against training without a teacher, at warm caches, not compiled.

What a step costs over a bare loop that does the same is measured by `distillation_overhead.py`.

Compiling is paid once and is not in the ratios; what it costs, and after how many items it has paid
for itself, is printed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch._inductor import config as inductor
from torch.nn import functional

from benchmarks.peers.torchdistill_peer import Peer, unavailable
from benchmarks.suites.distillation_table import CACHE, ROWS, first_items, model, shipped_teacher
from kdeploy.data.augmentation import augmenter
from kdeploy.data.contract import Dataset
from kdeploy.data.load import DataReference, load
from kdeploy.distill.config import DistillConfig
from kdeploy.distill.run import distill
from kdeploy.runtimes.run import this_machine
from kdeploy.torch_module.complexity import count_macs
from kdeploy.training.batches import Normalizer
from kdeploy.training.config import TrainingConfig
from kdeploy.training.fit import FitContext, Supervised, fit

TUTORIAL = "tutorial loop"
BATCH = 128
ITEMS = 50 * BATCH
TUTORIAL_ITEMS = 15 * BATCH
SETTINGS: dict[str, Any] = {"learning_rate": 0.05, "keep": "last", "batch_size": BATCH}
KD: dict[str, Any] = {"losses": [{"kd": {"temperature": 4.0, "weight": 0.9}}]}


def main() -> None:
    """Measure all, print the tables."""
    arguments = _arguments()
    augment = ("random_crop", "horizontal_flip")
    data = first_items(load(DataReference(name="fashion_mnist", augment=augment)), ITEMS)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(data, Path(folder), arguments.rounds)
        text = "\n".join(
            [
                f"Machine `{this_machine().id}`, torch {torch.__version__}, "
                f"{torch.get_num_threads()} threads, {arguments.rounds} rounds, images/s.",
                "",
                *bench.loops(),
                "",
                *bench.losses(),
            ]
        )
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n")


class Bench:
    """The candidates over one small training part."""

    def __init__(self, data: Dataset, folder: Path, rounds: int) -> None:
        self.data, self.folder, self.rounds = data, folder, rounds
        self.teacher = shipped_teacher()
        self.fresh = 0

    def loops(self) -> Iterator[str]:
        """Yield the lines of the first table."""
        seen: dict[str, list[float]] = {}
        candidates: dict[str, Callable[[], dict[str, float]]] = {
            TUTORIAL: self._tutorial,
            "kdeploy": self._ours,
        }
        reason = unavailable()
        if reason is None:
            candidates["torchdistill"] = self._torchdistill
        for round_ in range(self.rounds):
            order = list(candidates) if round_ % 2 == 0 else list(candidates)[::-1]
            for name in order:
                for label, rate in candidates[name]().items():
                    seen.setdefault(label, []).append(rate)
        yield "| loop | median | against the tutorials' | quartiles |"
        yield "|---|---:|---:|---|"
        for label, rates in seen.items():
            yield _row(label, rates, seen[TUTORIAL])
        if reason is not None:
            yield f"| torchdistill | - | skipped: {reason} | |"
        yield ""
        cost = self._compile_seconds()
        plain, compiled = (
            statistics.median(seen[f"kdeploy, cached{how}"]) for how in (", not compiled", "")
        )
        gain = 1 / plain - 1 / compiled
        when = f"after {cost / gain:,.0f} items" if gain > 0 else "never"
        yield f"Compiling the student takes {cost:.1f} s and has paid for itself {when}."
        yield ""
        yield self._ceiling(*(statistics.median(seen[n]) for n in ("kdeploy, cached", TUTORIAL)))

    def losses(self) -> Iterator[str]:
        """Yield the lines of the second table."""
        seen: dict[str, list[float]] = {name: [] for name in ROWS}
        for row in ROWS.values():
            self._train(row, epochs=1, compile="off", cache=self.folder / "warm")
        for round_ in range(self.rounds):
            order = list(ROWS) if round_ % 2 == 0 else list(ROWS)[::-1]
            for name in order:
                history = self._train(
                    ROWS[name], epochs=2, compile="off", cache=self.folder / "warm"
                )
                seen[name].append(history[-1].images_per_second)
        yield "| loss | median | time of a step, against none | quartiles |"
        yield "|---|---:|---:|---|"
        none = seen["no distillation"]
        for name, rates in seen.items():
            ratios = [a / b for a, b in zip(none, rates, strict=True)]
            yield f"| {name} | {statistics.median(rates):,.0f} | {_ratio(ratios)} |"

    def _tutorial(self) -> dict[str, float]:
        return {TUTORIAL: max(self._tutorial_once() for _ in range(3))}

    def _tutorial_once(self) -> float:
        student = model(width=8, depth=1)
        order = np.random.default_rng(0).permutation(TUTORIAL_ITEMS)
        started = time.perf_counter()
        tutorial_epoch(student, self.teacher, self.data, order, tutorial_optimizer(student))
        return TUTORIAL_ITEMS / (time.perf_counter() - started)

    def _ours(self) -> dict[str, float]:
        """Return the rates of epochs that ask the teacher, and of one that reads its answers."""
        self.fresh += 1
        cache = self.folder / f"cold{self.fresh}"
        history = self._train(KD, epochs=6, compile="on", views=3, cache=cache)
        plain = self._train(KD, epochs=4, compile="off", views=1, cache=cache)
        asked = max(ITEMS / r.seconds for r in history[1:3])
        return {
            "kdeploy, first epoch": asked,
            "kdeploy, cached": max(r.images_per_second for r in history[3:]),
            "kdeploy, cached, not compiled": max(r.images_per_second for r in plain[1:]),
        }

    def _ceiling(self, cached: float, tutorial: float) -> str:
        """Return what an epoch that asks the teacher cannot exceed on this machine."""
        macs = count_macs(self.teacher, torch.from_numpy(self.data.preprocessing.example(1)))
        product = _matmul_macs_a_second()
        rate = 1 / (1 / cached + macs / product)
        return (
            f"The teacher takes {macs / 1e6:.0f} MMACs an image, and the fastest bfloat16 matrix "
            f"product here does {product / 1e9:.0f} GMAC/s: with every layer as fast as that, "
            f"a first epoch would reach {rate:,.0f} images/s, {rate / tutorial:.2f} times the "
            "tutorials'."
        )

    def _compile_seconds(self) -> float:
        """Return what an epoch takes longer that compiles, with nothing compiled before."""
        with inductor.patch(force_disable_caches=True):
            first, second, *_ = self._train(KD, epochs=3, compile="on", cache=self.folder / "cold1")
        return float(first.seconds - second.seconds)

    def _torchdistill(self) -> dict[str, float]:
        peer = Peer(self.teacher, model(width=8, depth=1), self.data, BATCH)
        peer.run(2)
        steps = TUTORIAL_ITEMS // BATCH
        rates = []
        for _ in range(3):
            started = time.perf_counter()
            peer.run(steps)
            rates.append(steps * BATCH / (time.perf_counter() - started))
        return {peer.name: max(rates)}

    def _train(self, row: dict[str, Any], *, cache: Path, views: int = 1, **settings: Any) -> Any:
        student = model(width=8, depth=1)
        context = FitContext(cache=cache)
        training = {**SETTINGS, **settings, "views": views}
        if not row:
            return fit(Supervised(student), self.data, context, TrainingConfig(**training)).history
        row = {**row, "cache_budget": CACHE}
        return distill(
            student, self.teacher, self.data, context, DistillConfig(**training, **row)
        ).fit.history


def tutorial_optimizer(student: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of the tutorials' loop."""
    return torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, nesterov=True)


def tutorial_epoch(
    student: nn.Module,
    teacher: nn.Module,
    data: Dataset,
    order: NDArray[np.int64],
    optimizer: torch.optim.Optimizer,
) -> float:
    """Train as tutorials show it, on the items in this order; return the sum of the losses."""
    for module in (student.train(), teacher.eval()):
        module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    augment = augmenter(data.augment, data.preprocessing.shape)
    normalize = Normalizer(data.preprocessing, torch.device("cpu"))
    total = 0.0
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        x = normalize(augment(torch.from_numpy(data.train.x[rows]).float()))
        labels = torch.from_numpy(data.train.y[rows])
        with torch.no_grad():
            known = teacher(x)
        logits = student(x)
        loss = 0.1 * functional.cross_entropy(logits, labels) + 0.9 * _kd(logits, known)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total


def _matmul_macs_a_second() -> float:
    """Return the rate of the best of some square products in bfloat16."""
    best = 0.0
    for size in (512, 1024, 2048):
        a, b = (torch.randn(size, size).bfloat16() for _ in range(2))
        for _ in range(12):
            started = time.perf_counter()
            a @ b
            best = max(best, size**3 / (time.perf_counter() - started))
    return best


def _kd(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    logs = (functional.log_softmax(z / 4.0, 1) for z in (student, teacher))
    return 16.0 * functional.kl_div(*logs, reduction="batchmean", log_target=True)


def _row(label: str, rates: list[float], base: list[float]) -> str:
    ratios = [a / b for a, b in zip(rates, base, strict=True)]
    return f"| {label} | {statistics.median(rates):,.0f} | {_ratio(ratios)} |"


def _ratio(ratios: list[float]) -> str:
    low, _, high = statistics.quantiles(ratios, n=4)
    return f"{statistics.median(ratios):.3f} | {low:.3f} to {high:.3f}"


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
