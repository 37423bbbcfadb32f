"""How good a student is on the validation part, which all processes share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from kdeploy.data.contract import NOT_COUNTED, Dataset, Preprocessing, Split
from kdeploy.errors import ModelError
from kdeploy.tasks.contract import Predictions, Task, classification, facts_of, judged_as
from kdeploy.torch_module.finite import as_arrays, check_answers, num_unreadable
from kdeploy.torch_module.named_inputs import call
from kdeploy.training.batches import batches_in_order
from kdeploy.training.processes import Processes

BY_LIKELIHOOD = "perplexity"
"""The main metric of tasks whose epochs are compared by what labels cost."""
BATCH_SIZE = 256  # no gradients are kept, so it may be larger than in training


class Validated(NamedTuple):
    """How good a student is on the validation part."""

    accuracy: float
    """The task's score, of classes the fraction that is right; not a number without labels."""
    worth: float
    """By which epochs are compared, more is better: where the task is judged by its perplexity the
    mean log-likelihood of a token, else the accuracy. Who learned a text by heart is right more
    often than before, and surer where it is wrong."""


@torch.no_grad()
def validated(
    student: nn.Module,
    part: Split,
    preprocessing: Preprocessing,
    *,
    device: torch.device,
    processes: Processes,
    task: Task | None = None,
    is_sharded: bool = False,
) -> Validated:
    """Return how good a student is; it is left in eval mode.

    Args:
        student: Is asked.
        part: All of it; each process asks on its share.
        preprocessing: Makes items inputs.
        device: Of this process.
        processes: Share the part.
        task: What answers mean; None: classes.
        is_sharded: Whether the processes share the weights too, and compute only together.

    Raises:
        ModelError: an answer is NaN or infinite; the message names the item and the layer.
    """
    if not part.is_labelled:
        return Validated(float("nan"), float("nan"))
    task = task or classification()
    is_by_likelihood = facts_of(judged_as(task))["metric"] == BY_LIKELIHOOD
    student.eval()
    bounds = np.linspace(0, len(part), processes.count + 1).astype(int)
    own = slice(*bounds[processes.rank : processes.rank + 2])
    # Those that are right, and those that are no class: read once, for that waits for the device.
    counts = torch.zeros(2, dtype=torch.int64, device=device)
    loss = torch.zeros(1, dtype=torch.float64)
    predictions: list[Predictions] = []
    size = preprocessing.at_once(BATCH_SIZE)
    labels = torch.split(torch.from_numpy(part.y[own].copy()).to(device), size)
    batches = batches_in_order(part.x[own], preprocessing, batch_size=size, device=device)
    # A process without a share still has one split, of no labels.
    for x, y in zip(batches, labels, strict=len(labels[0]) > 0):
        answer = call(student, x)
        right = task.right(answer, y)
        if right is None:
            predictions.append(task.predictions(as_arrays(answer), y.cpu().numpy()))
            right = counts.new_zeros(())
        if is_by_likelihood and (num_counted := int((y != NOT_COUNTED).sum())):
            loss += float(task.label_loss(answer, y)) * num_counted
        counts += torch.stack([right, num_unreadable(answer)])
    if is_sharded:
        num_batches = -(-np.diff(bounds) // size)
        shown = next(batches_in_order(part.x[:1], preprocessing, batch_size=1, device=device))
        for _ in range(num_batches.max() - num_batches[processes.rank]):
            call(student, shown)
    num_right, num_without = processes.add_up(counts).tolist()
    found = [made for share in processes.gathered(predictions) for made in share]
    if num_without:
        about = f"{num_without} answers to validation items are NaN or infinite, which is no class"
        if is_sharded:
            raise ModelError(
                about, hint="without `fully_shard` the first one and the layer are named"
            )
        _refuse(student, part, preprocessing, own, device)
        raise ModelError(
            about, hint="the process that asked for them names the first one and the layer"
        )
    num_counted = int((part.y != NOT_COUNTED).sum())
    if found:
        score = task.score(task.metrics(np.concatenate(found), task.expected(part.y)))
    else:
        score = float(num_right) / num_counted
    if not is_by_likelihood:
        return Validated(score, score)
    return Validated(score, -sum(map(float, processes.gathered(loss))) / num_counted)


def validation_batches(data: Dataset, device: torch.device, processes: Processes) -> list[Tensor]:
    """Return a batch of each size that the validation of an epoch has here."""
    share = -(-len(data.validation) // processes.count)
    most = data.preprocessing.at_once(BATCH_SIZE)
    sizes = {min(share, most), share % most} - {0}
    part = data.validation.x[: max(sizes, default=0)]
    batches = batches_in_order(part, data.preprocessing, batch_size=most, device=device)
    return [x[:size] for x in batches for size in sizes]


def _refuse(
    student: nn.Module, part: Split, preprocessing: Preprocessing, own: slice, device: torch.device
) -> None:
    """Raise ModelError for the first item of this process's share that has no class."""
    size = preprocessing.at_once(BATCH_SIZE)
    batches = batches_in_order(part.x[own], preprocessing, batch_size=size, device=device)
    for number, x in enumerate(batches):
        first = own.start + number * size
        check_answers(student, x, call(student, x), name="model", part="validation", first=first)
