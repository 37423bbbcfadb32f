"""What `kdeploy.Objective` costs in a loop of one's own, beside the same losses written by hand.

    python benchmarks/suites/objective_overhead.py [--blocks 40] [--batch 128] [--threads 1]

The shipped Fashion-MNIST teacher, asked live, a student of width 8, depth 1, float32. Both loops
take the same batches with the same optimizer and run in turns of 10 steps, A B B A, so that what
else the machine does falls on both alike; what is compared is the processor time of the process. A
smaller batch is the harder test: what is added to a step does not shrink with it. The ratio is the
Hodges-Lehmann estimate over blocks of four turns, with the 95 % interval of Wilcoxon's signed-rank
test; a second loop by hand beside the first shows what this machine can tell apart. That both loops
end in the same weights is checked: they do the same work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import kdeploy
from benchmarks.shared.running import conclude, conditions, here, parser_of, table
from benchmarks.suites.distillation_table import model, shipped_teacher
from kdeploy.bench.stats import paired_ratio

STEPS, LIMIT = 10, 1.03
TEMPERATURE, KD_WEIGHT, LABEL_WEIGHT = 4.0, 0.9, 0.1
Loss = Callable[[Tensor, Tensor], Tensor]


def main() -> None:
    """Measure both loops, print the table."""
    parser = parser_of(__doc__ or "")
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    ours = _ratio(_objective, arguments.blocks, arguments.batch)
    alike = _ratio(_by_hand, arguments.blocks, arguments.batch)
    rows = [
        [name, f"{1000 * found['step_seconds']:.2f} ms", f"{found['ratio']:.3f}",
         f"{found['low']:.3f} to {found['high']:.3f}", f"{found['apart']:.1g}"]
        for name, found in {"kdeploy.Objective": ours, "a second loop by hand": alike}.items()
    ]  # fmt: skip
    header = (
        "loop | a step, processor time | of that of the loop by hand | 95 % interval | "
        "weights differ by at most"
    )
    lines = table(header, rows, right=(1, 2, 4))
    asked = f"--blocks {arguments.blocks} --batch {arguments.batch} --threads {arguments.threads}"
    text = "\n".join(
        [
            "# What `kdeploy.Objective` adds to a loop of one's own",
            "",
            conditions(here(), arguments.threads),
            "",
            *lines,
            "",
            f"Made by `python -m benchmarks.suites.objective_overhead {asked}`; at most "
            f"{LIMIT} is asked. Ratios of processor time, of turns side by side.",
            "",
        ]
    )
    conclude(
        "objective_overhead",
        {"objective": ours, "by_hand": alike, "asked": vars(arguments)},
        text,
        holds=ours["ratio"] <= LIMIT,
    )


class Loop:
    """A training of one's own, a turn at a time."""

    def __init__(self, loss_of: Callable[[nn.Module, nn.Module], Loss], batch: int) -> None:
        self.batch = batch
        torch.manual_seed(0)
        self.student = model(width=8, depth=1).train()
        self.loss = loss_of(self.student, shipped_teacher().eval())
        self.optimizer = torch.optim.SGD(self.student.parameters(), lr=0.01, momentum=0.9)
        self.batches = torch.Generator().manual_seed(0)

    def seconds(self) -> float:
        """Take a turn, and return how long it took."""
        pairs = [
            (
                torch.randn(self.batch, 1, 28, 28, generator=self.batches),
                torch.randint(10, (self.batch,), generator=self.batches),
            )
            for _ in range(STEPS)
        ]
        started = time.process_time()
        for inputs, targets in pairs:
            loss = self.loss(inputs, targets)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return time.process_time() - started


def _objective(student: nn.Module, teacher: nn.Module) -> Loss:
    losses = [{"kd": {"temperature": TEMPERATURE, "weight": KD_WEIGHT}}]
    return kdeploy.Objective(student, teacher, losses=losses, label_weight=LABEL_WEIGHT)


def _by_hand(student: nn.Module, teacher: nn.Module) -> Loss:
    def loss(inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            known = teacher(inputs)
        logits = student(inputs)
        logs = (functional.log_softmax(z / TEMPERATURE, 1) for z in (logits, known))
        soft = functional.kl_div(*logs, reduction="batchmean", log_target=True)
        hard = functional.cross_entropy(logits, targets)
        return LABEL_WEIGHT * hard + KD_WEIGHT * TEMPERATURE**2 * soft

    return loss


def _ratio(
    candidate: Callable[[nn.Module, nn.Module], Loss], blocks: int, batch: int
) -> dict[str, Any]:
    pair = Loop(candidate, batch), Loop(_by_hand, batch)
    for loop in pair:
        loop.seconds()
    seen: tuple[list[float], list[float]] = [], []
    for _ in range(blocks):
        for place in (0, 1, 1, 0):
            seen[place].append(pair[place].seconds())
    own, other = (_by_block(turns) for turns in seen)
    ratio = paired_ratio(own, other)
    weights = zip(pair[0].student.parameters(), pair[1].student.parameters(), strict=True)
    return {
        "ratio": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
        "step_seconds": float(np.median(own)) / (2 * STEPS),
        "apart": max((a - b).abs().max().item() for a, b in weights),
    }


def _by_block(turns: Sequence[float]) -> list[float]:
    return [float(total) for total in np.reshape(turns, (-1, 2)).sum(axis=1)]


if __name__ == "__main__":
    main()
