"""What a model answers in eval mode: one tensor, its input as it was, or an error that says why.

Every model is asked this way before anything is made with it. After that kdeploy gives one batch to
several models without copies, because none of them changes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kdeploy.errors import ModelError
from kdeploy.torch_module.model_faults import input_changed_at, returned_at, same
from kdeploy.torch_module.named_inputs import call, check_parameters, shape_in_words
from kdeploy.torch_module.named_outputs import named_outputs
from kdeploy.untrusted.user_code import users_code


def outputs_of(model: nn.Module, x: Tensor, *, role: str, hint: str | None = None) -> Tensor:
    """Return what `answer_of` returns, of several tensors their values side by side."""
    return joined(answer_of(model, x, role=role, hint=hint, several=True))


def first_of(answer: Tensor | Mapping[str, Tensor]) -> Tensor:
    """Return the first tensor of an answer."""
    return answer if isinstance(answer, Tensor) else next(iter(answer.values()))


def joined(answer: Tensor | Mapping[str, Tensor]) -> Tensor:
    """Return the one tensor of an answer, or all values of several as (batch, values)."""
    if isinstance(answer, Tensor):
        return answer
    return torch.cat([tensor.flatten(1).float() for tensor in answer.values()], dim=1)


def answer_of(
    model: nn.Module, x: Tensor, *, role: str, hint: str | None = None, several: bool = False
) -> Tensor | dict[str, Tensor]:
    """Return what the model answers in eval mode; modes and `x` are left as they were.

    Args:
        model: Is asked once, on its own device.
        x: (batch, ...) as the model takes it.
        role: Begins the messages, e.g. "the teacher".
        hint: What to change where the model cannot run.
        several: Whether it may return several tensors, which get names.

    Raises:
        ModelError: it cannot run, returns no tensor, or changes its input in place.
    """
    check_parameters(model, x, role=role)
    given = x.clone()
    with in_eval(model), torch.no_grad():
        what = f"{role} cannot run on items of shape {shape_in_words(x)}"
        with users_code(what, hint=hint, model=model):
            answer = call(model, given)
        found = named(answer) if several else answer
        if not isinstance(found, Tensor) and not (several and found):
            raise ModelError(
                f"{role} returns {told(answer)}{_at(returned_at(model, x))}; expected one tensor",
                hint=f"let forward return one tensor of logits{_which(answer)}",
            )
        _check_tensors(found, x, role=role)
        if not same(given, x):
            raise changes_its_input(model, x, role=role)
    return found


def _check_tensors(found: Tensor | Mapping[str, Tensor], x: Tensor, *, role: str) -> None:
    """Refuse tensors without an axis for the batch, and numbers that no file holds."""
    for name, tensor in {"": found}.items() if isinstance(found, Tensor) else found.items():
        what = f"{role} returns {told(tensor)}" + (f" as `{name}`" if name else "")
        if tensor.ndim == 0:
            raise ModelError(
                f"{what} for a batch of {len(x)} items: that is no answer to each of them",
                hint="let forward return what belongs to an item alone, the batch as the first"
                " axis: no loss, and no mean over all",
            )
        if tensor.is_complex():
            raise ModelError(
                f"{what} of complex numbers, which are neither classes nor quantities",
                hint="return real numbers, e.g. `.abs()`, or `torch.view_as_real(...)` of it",
            )


def named(answer: Any) -> Any:
    """Return one tensor as it is, and several as a mapping from their names."""
    return answer if isinstance(answer, Tensor) else named_outputs(answer)


def changes_its_input(model: nn.Module, x: Tensor, *, role: str, when: str = "") -> ModelError:
    """Return the error for a model, in its mode, that does not leave `x` as it was."""
    return ModelError(
        f"{role} changes its input in place{when}{_at(input_changed_at(model, x))}: whoever else is"
        " shown the same batch gets other numbers",
        hint="compute a new tensor in that line: `x = (x - mean) / std` for"
        " `x.sub_(mean).div_(std)`, `inplace=False` for the first activation",
    )


@contextmanager
def in_eval(model: nn.Module) -> Iterator[None]:
    """Keep a model in eval mode while the block runs; each module's mode comes back."""
    in_training = [module for module in model.modules() if module.training]
    if in_training:
        model.eval()
    try:
        yield
    finally:
        for module in in_training:
            module.training = True


def told(answer: Any) -> str:
    """Return what a model returned, in words."""
    if isinstance(answer, Tensor):
        return f"a tensor {tuple(answer.shape)}"
    if isinstance(answer, Mapping):
        return f"a dict of {', '.join(f'`{key}`' for key in answer) or 'nothing'}"
    if hasattr(answer, "_fields"):
        return f"a named tuple of {', '.join(f'`{field}`' for field in answer._fields)}"
    if isinstance(answer, list | tuple):
        return f"a {type(answer).__name__} of {len(answer)}"
    return "nothing" if answer is None else f"an object of the type `{type(answer).__name__}`"


def _which(answer: Any) -> str:
    """Return how the logits may be taken out of what a model returned, "" where none are seen."""
    if isinstance(answer, Mapping | list | tuple):
        ways = dict(_ways(answer, ""))
        # The last part of a way says most: `['out']['logits']`.
        called = [way for way in ways if way.endswith(("['logits']", ".logits", "['out']", ".out"))]
        # Of several that nobody has named, those of one item's shape are one guess.
        unlike = {tuple(tensor.shape[1:]): way for way, tensor in reversed(ways.items())}
        found = called[:1] or list(reversed(unlike.values()))[:2]
        return f": {' or '.join(f'`{way}`' for way in found)} of that" if found else ""
    return ": `.logits` of that" if hasattr(answer, "logits") else ""


def _ways(answer: Any, way: str) -> Iterator[tuple[str, Tensor]]:
    """Yield how Python gets to each tensor of what a model returned, with the tensor."""
    if isinstance(answer, Tensor):
        yield way, answer
    elif isinstance(answer, Mapping):
        for key, inner in answer.items():
            yield from _ways(inner, f"{way}[{key!r}]")
    elif isinstance(answer, list | tuple):
        fields = getattr(answer, "_fields", None)
        for place, inner in enumerate(answer):
            yield from _ways(inner, f"{way}.{fields[place]}" if fields else f"{way}[{place}]")


def _at(place: str) -> str:
    return f" ({place})" if place else ""
