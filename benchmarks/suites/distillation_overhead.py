"""What the framework costs on top of a bare loop that does the same work, step against step.

    python benchmarks/suites/distillation_overhead.py [--blocks 40] [--out FILE]

The shipped Fashion-MNIST teacher's kept answers, a student of width 8, depth 1, batch 128, bfloat16
where the hardware has it, channels_last, compiled. Our loop is the one that `distill` runs: its
watcher stops it after each slice of 20 steps and lets the bare loop take its own, A B B A, so that
what else the machine does falls on both alike. Both start from the same weights and see the same
items in the same order with the same answers and learning rates. That they end in the same weights
is printed: it proves that they do the same work.

Outside of the slices is what an epoch does once: its order and first step, validation, checkpoint.
The ratio is the Hodges-Lehmann estimate over blocks of four slices, with the 95 % interval of
Wilcoxon's signed-rank test. A bare loop against a second of its kind shows what this machine can
tell apart.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from benchmarks.suites.distillation_table import first_items, model, shipped_teacher
from kdeploy.bench.stats import paired_ratio
from kdeploy.data.augmentation import augmenter
from kdeploy.data.contract import Dataset
from kdeploy.data.load import DataReference, load
from kdeploy.distill.config import DistillConfig
from kdeploy.distill.run import distill
from kdeploy.runtimes.run import this_machine
from kdeploy.training.batches import Normalizer
from kdeploy.training.device import precision_on
from kdeploy.training.fit import FitContext, NullCallback
from kdeploy.training.views import augmented

BATCH = 128
STEPS = 20  # of a slice
BLOCKS_AN_EPOCH = 3  # of two slices of each loop
# The first step of an epoch is in no slice.
STEPS_AN_EPOCH = 1 + 2 * BLOCKS_AN_EPOCH * STEPS
ITEMS = STEPS_AN_EPOCH * BATCH
CPU = torch.device("cpu")
PEAK, MOMENTUM, DECAY = 0.05, 0.9, 5e-4
TEMPERATURE, KD_WEIGHT, LABEL_WEIGHT = 4.0, 0.9, 0.1
LOSSES = [{"kd": {"temperature": TEMPERATURE, "weight": KD_WEIGHT}}]


def main() -> None:
    """Measure both loops, print the table."""
    arguments = _arguments()
    epochs = math.ceil(arguments.blocks / BLOCKS_AN_EPOCH) + 1  # the first one compiles
    with tempfile.TemporaryDirectory() as folder:
        text = "\n".join(_report(_data(), Path(folder), epochs))
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n")


def _report(data: Dataset, folder: Path, epochs: int) -> Iterator[str]:
    ours = model(width=8, depth=1)
    bare = Bare(data, folder, epochs)
    callback = Alternating(bare)
    training = {"epochs": epochs, "batch_size": BATCH, "learning_rate": PEAK, "views": 1}
    distill(
        ours,
        shipped_teacher(),
        data,
        FitContext(device="cpu", cache=folder, callback=callback),
        DistillConfig(
            losses=LOSSES,
            label_weight=LABEL_WEIGHT,
            **{**training, "compile": "on", "keep": "last"},
        ),
    )
    pairs = zip(ours.parameters(), bare.student.parameters(), strict=True)
    apart = max((own - other).abs().max().item() for own, other in pairs)
    yield (
        f"Machine `{this_machine().id}`, torch {torch.__version__}, {torch.get_num_threads()} "
        f"threads, {precision_on(CPU, 'auto')}, slices of {STEPS} steps of {BATCH} items."
    )
    yield ""
    yield "| loop | a step | time of a bare loop's step | 95 % interval | blocks |"
    yield "|---|---:|---:|---|---:|"
    yield _row("kdeploy", callback.ours, callback.bare)
    yield _row("a second bare loop", *_alike(data, folder, epochs))
    yield ""
    steps = epochs * STEPS_AN_EPOCH
    yield f"After {steps} steps the weights of both loops differ by {apart:.1g} at most."


class Bare:
    """Training on kept answers as one writes it by hand, one `step` after another."""

    def __init__(self, data: Dataset, folder: Path, epochs: int) -> None:
        self.data, self.folder, self.epochs = data, folder, epochs
        self.student = model(width=8, depth=1)
        self.steps = self._steps()

    def seconds(self) -> float:
        """Return what a slice takes."""
        started = time.perf_counter()
        for _ in range(STEPS):
            next(self.steps)
        return time.perf_counter() - started

    def _steps(self) -> Iterator[None]:
        """Train for a step each time."""
        student = self.student.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        run = torch.compile(student, dynamic=False)
        optimizer = torch.optim.SGD(
            student.parameters(),
            lr=PEAK,
            momentum=MOMENTUM,
            weight_decay=DECAY,
            nesterov=True,
            fused=True,
        )
        normalize = Normalizer(self.data.preprocessing, CPU)
        augment = augmenter(self.data.augment, self.data.preprocessing.shape)
        items, labels = augmented(self.data.train.x, augment, view=0), self.data.train.y
        answers = self._answers()
        is_bf16 = precision_on(CPU, "auto") == "bf16"
        total = torch.zeros(())
        for step in range(self.epochs * STEPS_AN_EPOCH):
            epoch, place = divmod(step, STEPS_AN_EPOCH)
            if not place:
                order = np.random.default_rng([0, epoch]).permutation(ITEMS)
            rows = order[place * BATCH : (place + 1) * BATCH]
            fraction = step / (self.epochs * STEPS_AN_EPOCH)
            optimizer.param_groups[0]["lr"] = PEAK * (1 + math.cos(math.pi * fraction)) / 2
            x = normalize(torch.from_numpy(items[rows]))
            x = x.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
                logits = run(x)
            known, true = torch.from_numpy(answers[rows]).float(), torch.from_numpy(labels[rows])
            # Two casts: the sum of two gradients in bfloat16 is then rounded as ours is.
            entropy = functional.cross_entropy(logits.float(), true)
            loss = LABEL_WEIGHT * entropy + KD_WEIGHT * _kd(logits.float(), known)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total += loss.detach()
            yield

    def _answers(self) -> NDArray[np.float16]:
        """Return what the teacher said of the one view, as our loop had it say."""
        (file,) = self.folder.glob("*/0.float16")
        return np.fromfile(file, np.float16).reshape(ITEMS, -1)


class Alternating(NullCallback):
    """Watches our loop: after every other slice of its steps the bare loop takes two."""

    def __init__(self, bare: Bare) -> None:
        self.loop = bare
        self.ours: list[float] = []
        self.bare: list[float] = []
        self.done, self.is_warm = 0, False
        self.since = 0.0

    def stepped(self, images: int) -> None:
        del images
        self.done += 1
        if self.done == 1:
            next(self.loop.steps)
        elif self.done % STEPS == 1:
            self._slice_ended(time.perf_counter() - self.since)
        else:
            return
        self.since = time.perf_counter()

    def epoch_ended(self, record: Any) -> None:
        del record
        self.done, self.is_warm = 0, True

    def _slice_ended(self, seconds: float) -> None:
        is_odd = self.done // STEPS % 2 == 1
        others = [self.loop.seconds() for _ in range(2)] if is_odd else []
        if self.is_warm:
            self.ours.append(seconds)
            self.bare += others


def _alike(data: Dataset, folder: Path, epochs: int) -> tuple[list[float], list[float]]:
    """Return the slices of two bare loops that take turns as ours and one do."""
    pair = Bare(data, folder, epochs), Bare(data, folder, epochs)
    seen: tuple[list[float], list[float]] = [], []
    for epoch in range(epochs):
        for loop in pair:
            next(loop.steps)
        for place in BLOCKS_AN_EPOCH * (0, 1, 1, 0):
            seconds = pair[place].seconds()
            if epoch:
                seen[place].append(seconds)
    return seen


def _row(name: str, above: Sequence[float], below: Sequence[float]) -> str:
    ours, bare = (np.reshape(slices, (-1, 2)).sum(axis=1) for slices in (above, below))
    ratio = paired_ratio(list(ours), list(bare))
    milliseconds = 1000 * np.median(ours) / (2 * STEPS)
    interval = f"{ratio.low:.3f} to {ratio.high:.3f}"
    return f"| {name} | {milliseconds:.2f} ms | {ratio.value:.3f} | {interval} | {len(ours)} |"


def _kd(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    logs = (functional.log_softmax(z / TEMPERATURE, 1) for z in (student, teacher))
    divergence = functional.kl_div(*logs, reduction="batchmean", log_target=True)
    return TEMPERATURE**2 * divergence


def _data() -> Dataset:
    augment = ("random_crop", "horizontal_flip")
    return first_items(load(DataReference(name="fashion_mnist", augment=augment)), ITEMS)


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
