"""Golden data: real inputs, the outputs the file gave here, and how far another CPU may stray.

Floating-point sums depend on the order of addition, and integer kernels round ties their own way,
so the same file does not give the same bits on every CPU. The tolerance of an output (`atol`, in
its own unit) is the larger of
- a floor: 0.001 of the output's standard deviation for a float file, 0.1 for a quantized one, and
- four times what the output moves here between the library's fastest kernels and its plainest
  (no fusion: a quantized graph then runs in floats, rounding where the file says).
Beyond the output's own standard deviation a difference of single numbers would be no test, and of a
quantized file single numbers move far where a kernel rounds in its own way (on 64-bit ARM, ONNX
Runtime rounds rows of `int8_dynamic` one by one; a map of probabilities is steep at edges). Of
quantized files, and where kernels of one machine come near that deviation, the root mean square of
the difference is judged in its place (`rms_atol`): the larger of the same floor and four times what
it is here, at most half of the deviation. Outputs of another item, or of other weights, are one
deviation away and more.
Where the first output is scores of classes, the class must be the recorded one wherever the two
best are further apart than `atol`; items closer than that are near ties, and judged by `atol` only.
Of a model that answers every token, each token is such an item.

A file that carries a state is run over the items in their order, as steps of one stream.

The floors are about what was seen between implementations: three residual networks on 450 digits
gave 2e-6 for float, and for INT8 0.05 within ONNX Runtime and 0.07 to OpenVINO, which is three
steps of the quantized output. INT8 itself is 0.14 to 1.0 away from float on the same items.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.errors import ModelError
from kdeploy.machine import allowed_cores
from kdeploy.package.contract import BundleKind, FileFacts, Run
from kdeploy.package.manifest import Port, State
from kdeploy.package.ports import BATCH, takes_rows
from kdeploy.package.runner.python.reading import MOST_ARRAY_BYTES
from kdeploy.package.runner.python.schema import (
    FLOAT_FLOOR,
    QUANTIZED_FLOOR,
    RMS_CAP,
    SPREAD_MARGIN,
)
from kdeploy.package.runner.python.schema import MOST_ITEMS as MAX_ITEMS

MAX_BYTES = MOST_ARRAY_BYTES // 4
Array = NDArray[Any]
Given = Array | Mapping[str, Array]
"""Items of each input, or the outputs of each item, by name; of one tensor the array alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputTolerance:
    """What an output may differ by, and the numbers it was derived from."""

    atol: float
    output_std: float
    floor_of_std: float
    spread: float
    spread_margin: float
    rms_spread: float | None = None
    rms_atol: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance(OutputTolerance):
    """What golden outputs may differ by: of the first one here, of each other in `further`."""

    num_items: int
    top1_items: tuple[int, ...]
    further: tuple[OutputTolerance, ...] = field(default=())


def write_golden(
    folder: Path,
    model: Path,
    kind: BundleKind,
    facts: FileFacts,
    inputs: Given,
    outputs: Given,
    *,
    state: Sequence[State] = (),
    has_classes: bool = True,
) -> Tolerance:
    """Write `golden/`: the first items, their outputs and the tolerance.

    Args:
        folder: Of the bundle.
        model: The file in it.
        kind: Of the bundle.
        facts: What the file says.
        inputs: Items, preprocessed.
        outputs: The file's own, of each item.
        state: What the file carries from item to item.
        has_classes: Whether the first output holds scores of classes.

    Raises:
        ModelError: shapes do not fit the file, or it does not give these outputs.
    """
    fed = {s.input for s in state}
    given = named(inputs, [p for p in facts.inputs if p.name not in fed], "inputs")
    recorded = named(outputs, facts.outputs, "outputs")
    arrays = [*given.values(), *recorded.values()]
    largest = max([*(a[:1].nbytes for a in arrays), 1])
    # One item at least, however large: without any nothing would be proven.
    count = min(MAX_ITEMS, max(1, MAX_BYTES // largest))
    given = {name: array[:count] for name, array in given.items()}
    recorded = {name: array[:count] for name, array in recorded.items()}
    _check_shapes(facts, given, recorded, has_classes=has_classes)
    tolerance = tolerance_of(
        model, kind, facts, given, recorded, state=state, has_classes=has_classes
    )
    golden = folder / "golden"
    golden.mkdir()
    _save(golden / "inputs.npz", "inputs", given)
    _save(golden / "outputs.npz", "outputs", recorded)
    (golden / "tolerance.json").write_text(json.dumps(_told(tolerance), indent=2) + "\n")
    return tolerance


def _told(tolerance: OutputTolerance) -> dict[str, Any]:
    """Return what the file says: nothing of what there is not."""
    fields = asdict(tolerance)
    further = [_told(one) for one in getattr(tolerance, "further", ())]
    return {k: v for k, v in {**fields, "further": further or None}.items() if v is not None}


def named(given: Given, ports: Sequence[Port], what: str) -> dict[str, Array]:
    """Return arrays by the names of the file, in its order.

    Raises:
        ModelError: one is missing, or is none of the file.
    """
    if not isinstance(given, Mapping):
        given = {ports[0].name: given}
        ports = ports[:1] if what == "outputs" else ports
    if set(given) != {p.name for p in ports}:
        raise ModelError(
            f"the golden {what} are {_names(given)}; the file has {_names(p.name for p in ports)}",
            hint="pass an array for each of them, by its name",
        )
    return {p.name: np.asarray(given[p.name]) for p in ports}


def tolerance_of(
    model: Path,
    kind: BundleKind,
    facts: FileFacts,
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    *,
    state: Sequence[State] = (),
    has_classes: bool = True,
) -> Tolerance:
    """Return the tolerance for these golden outputs, measured on this machine."""
    fast, plain = (
        run_items(kind.open_model(str(model), allowed_cores(), is_plain), facts, inputs, state)
        for is_plain in (False, True)
    )
    found = [
        _tolerance(model, name, expected, fast[name], plain[name], facts.is_quantized)
        for name, expected in outputs.items()
    ]
    first = next(iter(outputs.values()))
    return Tolerance(
        num_items=len(first),
        top1_items=_clear_items(first, found[0].atol) if has_classes else (),
        further=tuple(found[1:]),
        **asdict(found[0]),
    )


def run_items(
    run: Run, facts: FileFacts, inputs: Mapping[str, Array], state: Sequence[State]
) -> dict[str, Array]:
    """Return the outputs of each item, one item a call as the runner does; a state goes on.

    Of answers whose sizes differ the first item alone is kept, of all outputs.
    """
    carried = {s.input: _zeros(p) for s in state for p in facts.inputs if p.name == s.input}
    rows = {p.name: takes_rows(p) for p in facts.inputs}
    answers: list[dict[str, Array]] = []
    for i in range(len(next(iter(inputs.values())))):
        feeds = {n: x[i : i + 1] if rows[n] else x[i, ...] for n, x in inputs.items()}
        answers.append(run({**feeds, **carried}))
        carried = {s.input: answers[-1][s.output] for s in state}
    if any(len({np.shape(a[name]) for a in answers}) > 1 for name in answers[0]):
        answers = answers[:1]
    return {
        port.name: (np.concatenate if takes_rows(port) else np.stack)(
            [np.asarray(answer[port.name]) for answer in answers]
        )
        for port in facts.outputs
    }


def _tolerance(
    model: Path, name: str, expected: Array, fast: Array, plain: Array, is_quantized: bool
) -> OutputTolerance:
    fast, plain, exact = (
        a.reshape(expected.shape).astype(np.float64) if a.size == expected.size else a
        for a in (fast, plain, expected)
    )
    std = float(exact.std())
    share = QUANTIZED_FLOOR if is_quantized else FLOAT_FLOOR
    floor = max(share * std, 1e-6 * float(np.abs(exact).max(initial=0)), 1e-12)
    spread, rms_spread = _apart(fast, plain)
    # Beyond the outputs' own deviation it would be no test.
    atol = max(floor, min(SPREAD_MARGIN * spread, std))
    away, _ = _apart(fast, exact)
    if not away <= atol:
        raise ModelError(
            f"{model} does not give the golden outputs: `{name}` differs by up to {away:.3g}, "
            f"allowed are {atol:.3g}",
            hint="pass the outputs of this very file, run by its own library on the CPU",
        )
    found = OutputTolerance(
        atol=atol,
        output_std=std,
        floor_of_std=share,
        spread=min(spread, std),
        spread_margin=SPREAD_MARGIN,
    )
    if not (is_quantized or SPREAD_MARGIN * spread > std > floor):
        return found
    half = RMS_CAP * std
    return replace(
        found,
        rms_spread=min(rms_spread, half),
        rms_atol=max(share * std, min(SPREAD_MARGIN * rms_spread, half)),
    )


def _apart(one: Array, other: Array) -> tuple[float, float]:
    """Return the largest difference and the root mean square of all; infinity of other shapes."""
    if one.shape != other.shape:
        return np.inf, np.inf
    away = np.abs(one - other)
    return float(away.max(initial=0)), float(np.sqrt(np.square(away).mean())) if away.size else 0.0


def _clear_items(outputs: Array, atol: float) -> tuple[int, ...]:
    rows = outputs.reshape(-1, outputs.shape[-1])
    lead = np.diff(np.sort(rows, axis=1)[:, -2:], axis=1)[:, 0]  # of the largest over the second
    return tuple(int(i) for i in np.flatnonzero(lead > atol))


def _save(path: Path, key: str, arrays: Mapping[str, Array]) -> None:
    """Write arrays in their order; what they are called does not matter to who reads them."""
    if len(arrays) == 1:
        np.savez(path, **{key: next(iter(arrays.values()))})  # type: ignore[arg-type]
    else:
        np.savez(path, *arrays.values())


def _zeros(port: Port) -> Array:
    return np.zeros([size if isinstance(size, int) else 1 for size in port.shape], port.type)


def _names(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def _check_shapes(
    facts: FileFacts,
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    *,
    has_classes: bool,
) -> None:
    counts = {len(a) for a in inputs.values()}
    ports = {p.name: p for p in (*facts.inputs, *facts.outputs)}
    for name, array in inputs.items():
        port = ports[name]
        if not _fits(array.shape[1:], _item(port)) or array.dtype != port.type:
            raise ModelError(
                f"`{name}` takes {port.type} items of shape {list(_item(port))}; the golden inputs "
                f"are {array.dtype} of shape {list(array.shape)}",
                hint="pass preprocessed items, (k, *shape)",
            )
    first = next(iter(outputs.values()))
    given = first.shape[1:]
    if counts != {len(first)} or not len(first) or (has_classes and given[-1:] in ((), (1,))):
        raise ModelError(
            f"the golden outputs have shape {list(first.shape)}; expected {max(counts)} rows, at "
            "least one, and of a classifier at least two classes",
            hint="pass the outputs of the same file for the same inputs",
        )
    for name, array in outputs.items():
        if not _fits(array.shape[1:], _item(ports[name])):
            raise ModelError(
                f"the golden outputs `{name}` have shape {list(array.shape)}; the file gives "
                f"{list(ports[name].shape)}",
                hint="pass the outputs of the same file for the same inputs",
            )
    for what, arrays in (("inputs", inputs), ("outputs", outputs)):
        for values in arrays.values():
            _check_numbers(what, values)


def _item(port: Port) -> tuple[int | str, ...]:
    """Return what one item of an input or output is, beside the axis of the items."""
    sizes = port.shape[1:] if takes_rows(port) else port.shape
    return tuple(1 if size == BATCH else size for size in sizes)


def _fits(found: Sequence[int], wanted: Sequence[int | str]) -> bool:
    """Return whether sizes are those of a port, of which some may be open."""
    return len(found) == len(wanted) and all(
        isinstance(size, str) or size == n for n, size in zip(found, wanted, strict=True)
    )


def _check_numbers(what: str, values: Array) -> None:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        rows = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
        raise ModelError(
            f"the golden {what} hold NaN or infinity in {rows.sum()} of {len(values)} items (the "
            f"first, counted from 0: {int(np.flatnonzero(rows)[0])})",
            hint="a file that answers such items with no number is not shipped: look at the item, "
            "and mend the layer that it breaks",
        )
