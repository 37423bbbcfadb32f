"""How often a student is right on the validation part, which all processes share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from kdeploy.data.contract import NOT_COUNTED, Dataset, Preprocessing, Split
from kdeploy.fitting.batches import batches_in_order
from kdeploy.fitting.processes import Processes

BATCH_SIZE = 256


@torch.no_grad()
def validation_accuracy(
    student: nn.Module,
    part: Split,
    preprocessing: Preprocessing,
    *,
    device: torch.device,
    processes: Processes,
) -> float:
    """Return the fraction that is right, of tokens those that count; not a number for none.

    The student is left in eval mode.
    """
    counted = int((part.y != NOT_COUNTED).sum())
    if not counted:
        return float("nan")
    student.eval()
    bounds = np.linspace(0, len(part), processes.count + 1).astype(int)
    own = slice(*bounds[processes.rank : processes.rank + 2])
    right = torch.zeros((), dtype=torch.int64, device=device)
    labels = torch.split(torch.from_numpy(part.y[own].copy()).to(device), BATCH_SIZE)
    batches = batches_in_order(part.x[own], preprocessing, batch_size=BATCH_SIZE, device=device)
    # A process without a share still has one split, of no labels.
    for x, y in zip(batches, labels, strict=len(labels[0]) > 0):
        right += (student(x).argmax(-1) == y).sum()
    return processes.add_up(right).item() / counted


def validation_batches(data: Dataset, device: torch.device, processes: Processes) -> list[Tensor]:
    """Return a batch of each size that the validation of an epoch has here."""
    share = -(-len(data.validation) // processes.count)
    sizes = {min(share, BATCH_SIZE), share % BATCH_SIZE} - {0}
    part = data.validation.x[: max(sizes, default=0)]
    batches = batches_in_order(part, data.preprocessing, batch_size=BATCH_SIZE, device=device)
    return [x[:size] for x in batches for size in sizes]
