"""Why a file and its model disagree: what is found is told, and what to change follows from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kdeploy.preprocessing import Inputs
from kdeploy.torch_module.model_faults import input_changed_at, random_at, same
from kdeploy.torch_module.named_inputs import call, tensors_of
from kdeploy.torch_module.named_outputs import named_outputs

Array = NDArray[np.float64]
NOT_THE_EXPORT = 0.25
"""Of the disagreement: a model that is as far from itself as this explains it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One batch: what went in, what both answered, and how far apart that is."""

    batch: tuple[Inputs, ...]
    expected: Array
    found: Array
    error: float
    """In standard deviations of the output; infinite where the shapes differ."""
    output: str = ""
    """Which of several outputs was compared: the one that is furthest off."""
    kind: str = ""
    """Of the inputs: what is allowed holds for a kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """What was found, and what to change."""

    found: str
    hint: str


def cause_of(
    trials: Sequence[Trial], model: nn.Module, own_error: Callable[[], float], *, bound: float
) -> Cause:
    """Return the cause of a disagreement, as far as runs of model and file show one.

    Args:
        trials: All batches.
        model: The model.
        own_error: Returns how far the model is from itself in float64.
        bound: What the error may be.
    """
    return (
        # From what is certain to what is left: a random model also looks like a wrong operator.
        _of_model(model, trials[0].batch)
        or _of_shapes(trials)
        or _of_numbers(trials)
        or _of_rounding(trials, own_error)
        or _of_batches(trials, bound)
        or _of_file(trials, bound)
    )


def _of_model(model: nn.Module, batch: tuple[Inputs, ...]) -> Cause | None:
    """Return what makes a model no function of its input."""
    given = [tensors_of(x) for x in batch]
    shown = [x.clone() for x in given]  # a model may change what it is given
    one = len(given) == 1
    with torch.no_grad():
        copies = [x.clone() for x in given]
        first, second = (call(model, x[0]) if one else model(*x) for x in (shown, copies))
    if not all(map(same, given, shown)):
        place = input_changed_at(model, given[0]) if one else ""
        return Cause(
            found=f"the model changes its input in place{f' at {place}' if place else ''}",
            hint="compute a new tensor there: `x = x - 1` in place of `x -= 1`",
        )
    answers = named_outputs(first), named_outputs(second)
    if not all(map(same, *(tensors.values() for tensors in answers))):
        place = random_at(model, given[0]) if one else ""
        return Cause(
            found="the model answers one input differently in two calls"
            + (f": random numbers are drawn at {place}" if place else ""),
            hint="in eval mode let it depend on its input and its weights alone",
        )
    return None


def _of_shapes(trials: Sequence[Trial]) -> Cause | None:
    wrong = next((t for t in trials if t.expected.shape != t.found.shape), None)
    if wrong is None:
        return None
    size = len(wrong.batch[0])
    return Cause(
        found=f"for a batch of {size} the file answers with the shape {wrong.found.shape}, the "
        f"model with {wrong.expected.shape}",
        hint="a size in the code became a constant of the file: take sizes from the tensor, "
        "`x.shape[0]`, and flatten by `x.flatten(1)`",
    )


def _of_numbers(trials: Sequence[Trial]) -> Cause | None:
    for trial in trials:
        bad = ~np.isfinite(trial.found) & np.isfinite(trial.expected)
        if bad.any():
            where = tuple(int(i) for i in np.argwhere(bad)[0])
            return Cause(
                found=f"{int(bad.sum())} of {bad.size} values of the file are no finite numbers, "
                f"first at {where} of a batch of {len(trial.batch[0])}, where the model gives "
                f"{trial.expected[where]:.4g}",
                hint="an inner value leaves the range of the file's numbers: bound it (a norm, "
                "`clamp`) before it is squared, exponentiated or divided by",
            )
    return None


def _of_rounding(trials: Sequence[Trial], own_error: Callable[[], float]) -> Cause | None:
    worst, own = max(t.error for t in trials), own_error()
    if not own or own < NOT_THE_EXPORT * worst:
        return None
    return Cause(
        found=f"the model itself is {own:.3g} standard deviations from itself in float64, so it "
        "enlarges the rounding of any sum",
        hint="no file of it can be proven: are its weights random or its activations unbounded? "
        "Train it, or add norms, and export then",
    )


def _of_batches(trials: Sequence[Trial], bound: float) -> Cause | None:
    sizes: dict[int, float] = {}
    for trial in trials:
        size = len(trial.batch[0])
        sizes[size] = max(sizes.get(size, 0.0), trial.error)
    right = [str(size) for size, error in sizes.items() if error <= bound]
    wrong = [str(size) for size, error in sizes.items() if error > bound]
    if not right or not wrong:
        return None
    return Cause(
        found=f"it is right for batches of {', '.join(right)} and wrong for {', '.join(wrong)}",
        hint="the items of a batch are mixed, or its size became a constant of the file: look for "
        "numbers and means over dimension 0 in `forward`",
    )


def _of_file(trials: Sequence[Trial], bound: float) -> Cause:
    wrong = sum(t.error > bound for t in trials)
    outputs = {
        int(i) for t in trials for i in np.unravel_index(np.argmax(_gap(t)), t.found.shape)[-1:]
    }
    listed = ", ".join(map(str, sorted(outputs)))
    return Cause(
        found=f"{wrong} of {len(trials)} batches are wrong, most at output {listed}; the model is "
        "a function of its input and no rounding explains it",
        hint="an operator is written or computed wrongly: export the model in two halves to see "
        "which, and report it; a file of another target may be right",
    )


def _gap(trial: Trial) -> Array:
    return np.abs(trial.found - trial.expected)
