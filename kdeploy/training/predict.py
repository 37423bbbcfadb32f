"""What a model answers on items as stored, and how good that is."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kdeploy.data.contract import Dataset, Preprocessing, Split
from kdeploy.tasks.contract import Predictions, Task, classification, is_of_classes, task_of
from kdeploy.torch_module.attention import attends
from kdeploy.torch_module.finite import as_arrays, check_answers
from kdeploy.torch_module.model_outputs import answer_of
from kdeploy.torch_module.named_inputs import call
from kdeploy.training.batches import batches_in_order


def predict(
    model: nn.Module,
    x_stored: NDArray[Any],
    preprocessing: Preprocessing,
    *,
    batch_size: int = 256,
    device: str = "cpu",
    name: str = "model",
    part: str = "given",
    task: Task | None = None,
    targets: NDArray[Any] | None = None,
) -> Predictions:
    """Return the task's predictions: of classes the most likely one of each item, or token.

    The model is asked in eval mode and left as it was.

    Args:
        model: Is asked.
        x_stored: Items as stored.
        preprocessing: Makes them inputs.
        batch_size: Items asked at once.
        device: Where.
        name: What messages call the model.
        part: What messages call the items.
        task: What answers mean; None: classes.
        targets: Say what counts; None: everything.

    Raises:
        ModelError: an answer is NaN or infinite; the message calls the model and the items so.
    """
    task, batch_size = task or classification(), preprocessing.at_once(batch_size)
    was_training, home = model.training, _device_of(model)
    model.eval().to(device)
    torch_device = torch.device(device)
    batches = batches_in_order(x_stored, preprocessing, batch_size=batch_size, device=torch_device)
    found: list[Predictions] = []
    try:
        # Only around the forward pass: a model moved in inference mode could not be trained again.
        with torch.inference_mode():
            for number, x in enumerate(batches):
                answer, first = call(model, x), number * batch_size
                check_answers(model, x, answer, name=name, part=part, first=first)
                known = None if targets is None else targets[first : first + batch_size]
                found.append(task.predictions(as_arrays(answer), known))
    finally:
        model.train(was_training).to(home)
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def accuracy(
    model: nn.Module,
    split: Split,
    preprocessing: Preprocessing,
    *,
    batch_size: int = 256,
    device: str = "cpu",
    name: str = "model",
    part: str = "validation",
    task: Task | None = None,
) -> float:
    """Return the task's score of a part, of classes the fraction that the model gets right.

    Where labels are of tokens, it is the fraction of the tokens that count; where nothing is
    labelled, it is not a number.

    Raises:
        ModelError: an answer is NaN or infinite; the message calls the model and the part so.
    """
    if not len(split) or not split.is_labelled:
        return float("nan")
    task = task or classification()
    predicted = predict(
        model,
        split.x,
        preprocessing,
        batch_size=batch_size,
        device=device,
        name=name,
        part=part,
        task=task,
        targets=split.y,
    )
    return task.score(task.metrics(predicted, task.expected(split.y)))


def metrics_on(
    model: nn.Module, split: Split, preprocessing: Preprocessing, task: Task, *, part: str = "test"
) -> dict[str, float]:
    """Return the task's metrics of a part, the main one first."""
    predicted = predict(model, split.x, preprocessing, part=part, task=task, targets=split.y)
    return task.metrics(predicted, task.expected(split.y))


def item_scores(model: nn.Module, data: Dataset, device: str) -> NDArray[Any]:
    """Return how good the model is on each validation item, or token, that counts.

    The task has item scores; see `has_item_scores`.
    """
    part, task = data.validation, task_of(data)
    found = predict(model, part.x, data.preprocessing, device=device, task=task, targets=part.y)
    return task.item_scores(found, task.expected(part.y))


def check_outputs(model: nn.Module, data: Dataset, *, name: str) -> None:
    """Raise ModelError unless the model runs on the data and answers as their task needs."""
    x = two_items(model, data)
    task = task_of(data)
    answer = answer_of(
        model,
        x,
        role=f"the {name}",
        hint="check the channels and the size that its build function expects: items of"
        f" {data.name} are {data.preprocessing.told_shape()}",
        several=not is_of_classes(task.name),
    )
    task.check_answer(answer, data, who=f"the {name}")


def attends_on(model: nn.Module, data: Dataset) -> bool:
    """Return whether the model computes attention on items of the data."""
    return attends(model, two_items(model, data))


def two_items(model: nn.Module, data: Dataset) -> Any:
    """Return the first two items of the training part as the model takes them, on its device."""
    device = _device_of(model)
    return next(batches_in_order(data.train.x[:2], data.preprocessing, batch_size=2, device=device))


def _device_of(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
