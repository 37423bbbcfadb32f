"""What a model answers on items as stored, and how often it is right."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdeploy.data.contract import NOT_COUNTED, Dataset, Preprocessing, Split
from kdeploy.errors import ModelError
from kdeploy.torch_module.finite import check_answers
from kdeploy.torch_module.model_outputs import outputs_of
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
) -> NDArray[np.int64]:
    """Return the most likely class of each item, or of each of its tokens.

    The model is asked in eval mode and left as it was.

    Raises:
        ModelError: an answer is NaN or infinite; the message calls the model and the items so.
    """
    was_training, home = model.training, _device_of(model)
    model.eval().to(device)
    place = torch.device(device)
    batches = batches_in_order(x_stored, preprocessing, batch_size=batch_size, device=place)
    classes: list[Tensor] = []
    try:
        # Only around the forward pass: a model moved in inference mode could not be trained again.
        with torch.inference_mode():
            for number, x in enumerate(batches):
                logits = model(x)
                check_answers(model, x, logits, name=name, part=part, first=number * batch_size)
                classes.append(logits.argmax(-1))
    finally:
        model.train(was_training).to(home)
    return torch.cat(classes).cpu().numpy() if classes else np.zeros(0, np.int64)


def accuracy(
    model: nn.Module,
    split: Split,
    preprocessing: Preprocessing,
    *,
    batch_size: int = 256,
    device: str = "cpu",
    name: str = "model",
    part: str = "validation",
) -> float:
    """Return the fraction of a part that the model gets right; not a number where none is labelled.

    Where labels are of tokens, it is the fraction of the tokens that count.

    Raises:
        ModelError: an answer is NaN or infinite; the message calls the model and the part so.
    """
    if not len(split) or not split.is_labelled:
        return float("nan")
    predicted = predict(
        model,
        split.x,
        preprocessing,
        batch_size=batch_size,
        device=device,
        name=name,
        part=part,
    )
    return float((predicted == split.y)[split.y != NOT_COUNTED].mean())


def right_items(model: nn.Module, data: Dataset, device: str) -> NDArray[np.bool_]:
    """Return which validation items, or tokens, that count the model gets right."""
    part = data.validation
    found = predict(model, part.x, data.preprocessing, device=device, part="validation")
    return np.asarray((found == part.y)[part.y != NOT_COUNTED])


def check_outputs(model: nn.Module, data: Dataset, *, name: str) -> None:
    """Raise ModelError unless the model returns one value for each class of the data."""
    found = num_outputs(model, data, name=name)
    if data.num_classes and found != data.num_classes:  # items without labels tell no classes
        raise ModelError(
            f"the {name} has {found} outputs, {data.name} has {data.num_classes} classes",
            hint=f"build the {name} for {data.num_classes} classes (see `args` of its build "
            "function)",
        )


def num_outputs(model: nn.Module, data: Dataset, *, name: str) -> int:
    """Run the model on two items and return how many values it gives for each.

    Raises:
        ModelError: it cannot run on them, or does not return a tensor (items, values), of data
            with labels of tokens (items, tokens, values).
    """
    place = _device_of(model)
    x = next(batches_in_order(data.train.x[:2], data.preprocessing, batch_size=2, device=place))
    outputs = outputs_of(
        model,
        x,
        role=f"the {name}",
        hint="check the channels and the size that its build function expects: items of"
        f" {data.name} are {data.preprocessing.shape}",
    )
    wanted = data.train.y[:2].shape
    if tuple(outputs.shape[:-1]) != wanted:
        raise ModelError(
            f"the {name} returns {tuple(outputs.shape)} for {wanted[0]} items; expected logits "
            f"({', '.join(map(str, wanted))}, classes)",
            hint="let the build function return a module whose forward gives one tensor of logits",
        )
    return outputs.shape[-1]


def _device_of(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
