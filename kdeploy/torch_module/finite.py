"""Answers that are no numbers: which items, and the first layer that makes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kdeploy.errors import ModelError
from kdeploy.torch_module.hooks import hooked
from kdeploy.torch_module.model_faults import no_number_at
from kdeploy.torch_module.named_inputs import call
from kdeploy.torch_module.named_outputs import named_outputs


def has_class(logits: Tensor) -> Tensor:
    """Return for each row whether its largest logit is a number, (..., classes) to (...)."""
    return logits.amax(-1).isfinite()


def num_unreadable(answer: Any) -> Tensor:
    """Return how many rows of an answer, one tensor or several, have no class or number."""
    tensors = [answer] if isinstance(answer, Tensor) else named_outputs(answer).values()
    return torch.stack([(~has_class(t)).sum() for t in tensors]).sum()


def as_arrays(answer: Any) -> Any:
    """Return an answer, one tensor or several, as float32 arrays."""
    if not isinstance(answer, Tensor):
        return {name: as_arrays(tensor) for name, tensor in named_outputs(answer).items()}
    return answer.detach().float().cpu().numpy()


def check_answers(
    model: nn.Module,
    x: Tensor,
    logits: Tensor | Mapping[str, Tensor],
    *,
    name: str,
    part: str,
    first: int = 0,
    numbers: Tensor | None = None,
) -> None:
    """Raise ModelError if an item has no class; the message names it, and the layer.

    Args:
        model: Who answered; it is asked for that item again, in the mode it is in.
        x: The batch that it was asked.
        logits: Its answers.
        name: What the model is called, e.g. "teacher".
        part: Of the data, e.g. "validation".
        first: The number of the batch's first item,
        numbers: or those of all its items.
    """
    if not isinstance(logits, Tensor):
        for tensor in named_outputs(logits).values():
            check_answers(model, x, tensor, name=name, part=part, first=first, numbers=numbers)
        return
    # A sum is a number only if all are, and takes a third of the time of a look at each.
    if bool(logits.sum(dtype=torch.float32).isfinite()):
        return
    is_bad = ~has_class(logits)
    if bool(is_bad.any()):
        rows = torch.nonzero(is_bad.reshape(len(logits), -1).any(1)).ravel()
        row = int(rows[0])
        number = first + row if numbers is None else int(numbers[row])
        raise refusal(model, x, row, name=name, item=f"{part} item {number}")


def refusal(model: nn.Module, x: Tensor, row: int, *, name: str, item: str) -> ModelError:
    """Return the error for one row of a batch to which a model answers no numbers."""
    broken = _broken_weights(model)
    if broken is not None:
        return ModelError(
            f"the {name} answers NaN or infinity to {item}: `{broken}` of it holds such values",
            hint="it was trained until it diverged: lower `learning_rate`, or give other weights",
        )
    layer, line = first_layer(model, x[[row, row]]), ""
    if layer is None:
        line = no_number_at(model, x[[row, row]])
    where = f"; the first layer whose output is no number is `{layer}`" if layer else ""
    where += f"; the first result that is no number is made at {line}" if line else ""
    return ModelError(
        f"the {name} answers NaN or infinity to {item}, which is no class{where}",
        hint="look at that item: empty or constant items divide by zero, and an attention that "
        "masks a whole row has nothing to attend to; mend the layer, or leave such items out",
    )


@torch.no_grad()
def first_layer(model: nn.Module, x: Tensor) -> str | None:
    """Return the innermost module that first answers NaN, or else infinity; None for none.

    A file says its own operator, and what stands on a plain model is looked at there.
    """
    of_file = getattr(model, "first_operator_without_numbers", None)
    if of_file is not None:
        operator: str | None = of_file(x)
        return operator
    found: dict[str, str] = {}
    handles = [
        module.register_forward_hook(partial(_note, found, name))
        for name, module in model.named_modules()
        if name
    ]
    try:
        with hooked(handles):
            call(model, x)
    except Exception:  # what it answered before is known all the same
        return _first_of(found)
    base = getattr(model, "base", None)
    if not found and isinstance(base, nn.Module):
        return first_layer(base, x)
    return _first_of(found)


def _first_of(found: dict[str, str]) -> str | None:
    return found.get("nan", found.get("infinity"))


def _note(found: dict[str, str], name: str, module: nn.Module, given: Any, output: Any) -> None:
    del module
    tensors = _tensors(output)
    if _any(tensors, Tensor.isnan):
        found.setdefault("nan", name)
    elif _any(tensors, Tensor.isinf) and not _any(_tensors(given), Tensor.isinf):
        found.setdefault("infinity", name)


def _any(tensors: list[Tensor], test: Callable[[Tensor], Tensor]) -> bool:
    return any(bool(test(t).any()) for t in tensors if t.is_floating_point())


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return (
        [t for inner in value for t in _tensors(inner)] if isinstance(value, list | tuple) else []
    )


def _broken_weights(model: nn.Module) -> str | None:
    tensors = (*model.named_parameters(), *model.named_buffers())
    return next(
        (n for n, t in tensors if t.is_floating_point() and not bool(t.isfinite().all())), None
    )
