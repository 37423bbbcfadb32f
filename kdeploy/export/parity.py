"""The parity gate: an exported file must compute what the model computes, wherever it is run.

Both run on real and on random inputs at several batch sizes. Errors are counted in standard
deviations of the model's outputs, for a relative error means nothing near zero.

A float file may be off by the order of its sums alone. That is next to nothing, except where a
network amplifies it, as some with random weights do: there, how far the model is from itself in
float64 says what the order of sums can do. An INT8 file rounds a sum that lies
between two codes one way or the other, and each such flip travels on and grows, so that deep
networks end as far apart as two roundings of the same float model: that distance, of the INT8
model from its float base on the same inputs, is the yardstick: of real inputs and of random ones
each has its own, for noise that a trained network has never seen ends far from itself whatever the
file does. A file in half precision is held
against what rounding weights and inputs to float16 (a relative 2**-11 each) does to the model: each
layer passes such an error on as its own input's, so that depth and amplification are in it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kdeploy.classes import NO_CLASS, classes_of
from kdeploy.data.contract import Dataset
from kdeploy.errors import KdeployError, ModelError, ParityFailed
from kdeploy.export.disagreement import Cause, Trial, cause_of
from kdeploy.export.fp16_reference import HalfRounded
from kdeploy.measurement import METRICS
from kdeploy.named_arrays import given, mapped
from kdeploy.preprocessing import Inputs
from kdeploy.tasks.contract import Task, has_class_rows, task_of
from kdeploy.torch_module.named_inputs import call, tensors_of
from kdeploy.torch_module.named_outputs import OUTPUT, named_outputs
from kdeploy.units import format_quantity

Array = NDArray[np.float64]
Run = Callable[..., Mapping[str, NDArray[Any]] | NDArray[Any]]
TOP1 = "agreement.top1"
KINDS = ("real", "random")  # in turns, as `inputs` yields them
BATCH_SIZES = (1, 3, 32)  # one, an odd one, many: what a file may have been fixed to
# Of float files: sums in another order differ by about 1e-6, a wrong operator by about 1.
FLOAT_BOUND = 1e-3
# Of the size of outputs that vary by less: eight roundings of float32 are within the bound then.
SMALLEST_DEVIATION = 2**-20 / FLOAT_BOUND
# Of float files that are further off, in distances between the model and itself in float64: two
# orders of sums are sqrt(2) of them apart in the mean, found were up to 2.4. Never more than the
# second.
ORDER_BOUND = 4.0
LARGEST_FLOAT_BOUND = 0.1
# Of INT8 files, in distances between the INT8 model and its float base. Independent roundings
# are sqrt(2) of them apart in the mean; the largest of a few hundred values varies by as much.
ROUNDING_BOUND = 2.0
# Of files in half precision, in distances between the model and itself with rounded weights. A
# file rounds the output of each operator as well, of which a block has several for each weight.
HALF_BOUND = 4.0
# Of any file: below it, the rounding of the model is no yardstick any more.
LOWEST_COSINE = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How far a file's outputs are from the model's; the worst over all inputs."""

    max_abs: float
    """Largest error in standard deviations of the output."""
    cosine: float
    agreement: float | None
    """Of what the task reads in both; None where nothing can be read."""
    required_tolerance: float
    """Largest absolute error, in the output's own unit: what a comparison must allow."""
    bound: float
    """What `max_abs` may be."""
    cause: Cause | None = None
    """Why it fails, where it does."""
    worst: str = ""
    """The output that is furthest off, where there are several."""

    agreement_metric: str = TOP1
    """What `agreement` is: the share of items with the same class, or the task's own."""

    @property
    def agreement_words(self) -> str:
        """Return the agreement for a message, after a comma; "" where there is none."""
        return agreement_in_words(self.agreement_metric, self.agreement)

    @property
    def passed(self) -> bool:
        return self.max_abs <= self.bound and self.cosine >= LOWEST_COSINE


def agreement_in_words(metric: str, value: float | None) -> str:
    """Return an agreement for a message, after a comma; "" where there is none."""
    return "" if value is None else f", {metric} {format_quantity(value, METRICS[metric].unit)}"


def measure_parity(
    model: nn.Module,
    run: Run,
    data: Dataset,
    *,
    base: nn.Module | None = None,
    is_half: bool = False,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> Parity:
    """Return how far `run` is from `model`.

    Args:
        model: The model.
        run: The file, executed: its outputs by name, or the only one.
        data: Whose validation part gives the real inputs.
        base: The float model under a quantized one.
        is_half: The file holds float16 numbers.
        batch_sizes: How many rows are run at once, one after the other.
    """
    batches = [(batch,) for batch in inputs(data, batch_sizes)]
    kinds = [KINDS[number % len(KINDS)] for number in range(len(batches))]
    return parity_on(
        batches, model, run, base=base, is_half=is_half, task=task_of(data), kinds=kinds
    )


def parity_on(
    batches: Sequence[tuple[Inputs, ...]],
    model: nn.Module,
    run: Run,
    *,
    base: nn.Module | None = None,
    is_half: bool = False,
    task: Task | None = None,
    kinds: Sequence[str] = (),
) -> Parity:
    """Return how far `run` is from `model` on these inputs, each a tuple of all that it takes.

    The task says what is read in the outputs; without one they are scores of classes. What is
    allowed holds for a kind of inputs, and the kind that comes nearest to it is told of.
    """
    trials: list[Trial] = []
    read: list[tuple[dict[str, Array], dict[str, Array]]] = []
    pairs: list[tuple[Array, Array]] = []
    numbers: list[bool] = []
    yardstick = HalfRounded(model) if base is None and is_half else base
    factor = ROUNDING_BOUND if base is not None else HALF_BOUND
    bounds: dict[str, float] = {}
    for batch, kind in zip(batches, kinds or [""] * len(batches), strict=True):
        bounds.setdefault(kind, FLOAT_BOUND)
        outputs = _outputs(model, batch)
        names, expected = list(outputs), list(outputs.values())
        numbers += [bool(np.isfinite(one).any()) for one in expected]
        found = _found(run(*map(given, batch)), names)
        pairs += zip(expected, found, strict=False)  # of a file, its model knows the first alone
        read.append((outputs, dict(zip(names, found, strict=False))))
        errors = list(map(_scaled_error, found, expected))
        worst = errors.index(max(errors))
        trials.append(
            Trial(
                batch=batch,
                expected=expected[worst],
                found=found[worst],
                error=errors[worst],
                output=names[worst] if len(names) > 1 else "",
                kind=kind,
            )
        )
        if yardstick is not None:
            rounding = map(_scaled_error, _outputs(yardstick, batch).values(), expected)
            bounds[kind] = max(bounds[kind], factor * max(rounding))
    if not any(numbers):
        raise ModelError(
            f"`{type(model).__name__}` answers NaN or infinity to every input of the parity gate",
            hint="look at its weights and at its first layers: nothing can be compared",
        )
    furthest = max(trials, key=lambda trial: trial.error / bounds[trial.kind])
    if yardstick is not None:
        trials = [trial for trial in trials if trial.kind == furthest.kind]
    max_abs, bound = max(trial.error for trial in trials), bounds[furthest.kind]
    # Only where it matters: a copy in float64 takes twice the memory.
    if yardstick is None and FLOAT_BOUND < max_abs <= LARGEST_FLOAT_BOUND:
        bound = max(bound, min(ORDER_BOUND * _own_error(model, batches), LARGEST_FLOAT_BOUND))
    agreement = _agreed(task, read, pairs[:: max(1, len(pairs) // len(batches))])
    parity = Parity(
        max_abs=max_abs,
        cosine=min(_cosine(expected, found) for expected, found in pairs),
        agreement=agreement[1],
        agreement_metric=agreement[0],
        required_tolerance=max(_largest_error(found, expected) for expected, found in pairs),
        bound=bound,
        worst=max(trials, key=lambda trial: trial.error).output,
    )
    if parity.passed:
        return parity

    def own_error() -> float:
        return _own_error(model, batches) if yardstick is None else 0.0

    return replace(parity, cause=cause_of(trials, model, own_error, bound=bound))


def check_parity(parity: Parity, *, name: str) -> None:
    """Raise ParityFailed unless the file is within its bound of the model."""
    if parity.passed:
        return
    raise ParityFailed(
        f"{name}: the file does not compute what the model computes: the largest error "
        f"{f'(at `{parity.worst}`) ' if parity.worst else ''}is "
        f"{parity.max_abs:.3g} output standard deviations (allowed {parity.bound:.3g}), the cosine "
        f"{parity.cosine:.6f} (at least {LOWEST_COSINE}){parity.agreement_words}; "
        f"it would need a tolerance of {parity.required_tolerance:.3g}; no file was kept"
        + (f". {parity.cause.found[0].upper()}{parity.cause.found[1:]}" if parity.cause else ""),
        hint=parity.cause.hint if parity.cause else "export the model in two halves to see which",
    )


def inputs(data: Dataset, batch_sizes: Sequence[int] = BATCH_SIZES) -> Iterator[Inputs]:
    """Yield real and random batches at each batch size; the random ones from a fixed seed."""
    generator = np.random.default_rng(0)
    rows = np.arange(len(data.validation))
    for batch_size in dict.fromkeys(map(data.preprocessing.at_once, batch_sizes)):
        yield data.preprocessing.apply(data.validation.x[np.resize(rows, batch_size)])
        # The next batch has other items, and small parts begin again.
        rows = np.roll(rows, -batch_size)
        yield data.preprocessing.random(batch_size, generator)


def _found(made: Mapping[str, NDArray[Any]] | NDArray[Any], names: Sequence[str]) -> list[Array]:
    """Return the outputs in the order of the model's; of a file from elsewhere in its own."""
    given = made if isinstance(made, Mapping) else {OUTPUT: made}
    is_named = all(name in given for name in names)
    found = [given[name] for name in names] if is_named else list(given.values())
    return [y.astype(np.float64) for y in found]


def _outputs(model: nn.Module, batch: tuple[NDArray[Any], ...]) -> dict[str, Array]:
    with torch.no_grad():
        # Copies: a model that changes its input would change what the file gets.
        copies = [tensors_of(x).clone() for x in batch]
        result = call(model, copies[0]) if len(copies) == 1 else model(*copies)
    tensors = named_outputs(result)
    return {name: np.asarray(y.numpy(), dtype=np.float64) for name, y in tensors.items()}


def _own_error(model: nn.Module, batches: Sequence[tuple[Inputs, ...]]) -> float:
    """Return how far the model is from itself in float64; 0 where it does not run in that."""
    exact = copy.deepcopy(model).double()
    found: list[float] = []
    for batch in batches:
        wide = tuple(mapped(_wide, x) for x in batch)
        try:
            answers = _outputs(exact, wide).values()
        except RuntimeError:  # a type that is fixed in the code
            return 0.0
        found += map(_scaled_error, _outputs(model, batch).values(), answers)
    return max(found)


def _wide(x: NDArray[Any]) -> Any:
    return x.astype(np.float64) if x.dtype == np.float32 else x


def _scaled_error(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    smallest = float(np.finfo(np.float32).tiny)
    numbers = expected[np.isfinite(expected)]
    # One number throughout, as of one item of one output, varies by nothing: its size stands in.
    size = float(np.abs(numbers).max(initial=0.0))
    deviation = float(numbers.std() or size) if numbers.size else 0.0
    deviation = max(deviation, SMALLEST_DEVIATION * size, smallest)
    return float(_largest_error(found, expected) / deviation)


def _largest_error(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    """Return the largest difference; infinite where only one of the two is a number.

    Where the model itself answers none, as a logarithm does to noise, the file has to as well.
    """
    if found.shape != expected.shape:
        return float("inf")
    is_number = np.isfinite(expected)
    if not np.array_equal(np.isfinite(found), is_number):
        return float("inf")
    return float(np.abs(found[is_number] - expected[is_number]).max(initial=0.0))


def _cosine(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    if found.shape != expected.shape:
        return 0.0
    is_number = np.isfinite(expected) & np.isfinite(found)
    found, expected = found[is_number], expected[is_number]
    norms = float(np.linalg.norm(found) * np.linalg.norm(expected))
    return float((found * expected).sum()) / norms if norms else float(not found.any())


def _agreed(
    task: Task | None,
    read: Sequence[tuple[dict[str, Array], dict[str, Array]]],
    pairs: list[tuple[Array, Array]],
) -> tuple[str, float | None]:
    """Return what is compared of the answers as the task reads them, and the share that agrees."""
    if task is None or has_class_rows(task.name):
        return TOP1, _agreement(pairs)
    return _agreement_of_task(task, read)


def _agreement(pairs: list[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> float:
    """Return the share of items with the same class; of several outputs, the first is asked."""
    classes = [
        (classes_of(expected).ravel(), classes_of(found).ravel())
        for expected, found in pairs
        if expected.shape == found.shape
    ]
    # Of items to which the model answers a class; a file that answers none does not agree.
    same = np.concatenate([(e == f)[e != NO_CLASS] for e, f in classes] or [np.zeros(0, bool)])
    return float(same.mean()) if same.size else 0.0


def _agreement_of_task(
    task: Task, read: Sequence[tuple[dict[str, Array], dict[str, Array]]]
) -> tuple[str, float | None]:
    """Return the task's first agreement of file and model, over all inputs."""
    found: list[list[Any]] = [[], []]
    for answers in read:
        for side, answer in zip(found, answers, strict=True):
            # As a runtime gives it: an array where there is one, in float32.
            typed = {name: array.astype(np.float32) for name, array in answer.items()}
            side.append(task.predictions(typed if len(typed) > 1 else typed.popitem()[1], None))
    try:
        expected, own = (np.concatenate(side) for side in found)
        agreed = task.agreement(own, expected)
    except (KdeployError, ValueError):  # other shapes, nothing to compare, a library is missing
        return "", None
    return next(iter(agreed.items()), ("", None))
