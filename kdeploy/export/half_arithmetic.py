"""What float16 arithmetic makes of a file: a device keeps every tensor in it, this processor not.

ONNX Runtime's CPU computes most operators of a float16 file in float32 and hands the result on
unrounded, so that a number beyond 65504 passes here and is infinite on a GPU or an NPU. So the
graph is computed once more on a few items, with each float16 tensor rounded as soon as it is made;
sums inside of an operator stay float32, as those devices accumulate. Only the largest number of
each tensor is kept, so that memory is that of one run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper
from torch import nn

from kdeploy.data.contract import Dataset
from kdeploy.errors import ParityFailed
from kdeploy.export.fp16_reference import LARGEST
from kdeploy.export.half_graph import (
    SMALLEST_NORMAL,
    Rounding,
    in_float32,
    is_half,
    keep,
    rounded,
    rounded_and_flushed,
)
from kdeploy.export.layer_names import layer_of
from kdeploy.export.parity import LOWEST_COSINE, Parity, parity_on
from kdeploy.named_arrays import in_memory, mapped, repeated
from kdeploy.preprocessing import Inputs

log = logging.getLogger(__name__)
# Batches of real items; a batch is one of those of the parity gate, and as small.
NUM_BATCHES = 4
LARGEST_BATCH = 8
# Rounding alone moves an output by no more than its standard deviation.
ROUNDING_ALONE = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one tensor came to in all runs, before it was rounded."""

    largest: float
    has_nan: bool

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.largest)) and not self.has_nan

    @property
    def is_beyond(self) -> bool:
        """Whether float16 does not hold it."""
        return self.has_nan or self.largest > LARGEST


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """How far a way of computing is from the model, and what its tensors were, in their order."""

    parity: Parity
    seen: Mapping[str, Seen]


def check_half_arithmetic(
    file: Path,
    model: nn.Module,
    data: Dataset,
    *,
    batch_sizes: Sequence[int],
    name: str,
    is_hidden_here: bool = True,
) -> None:
    """Compute a file with float16 tensors in float16; pass over one that has none.

    A file that is right only as long as small numbers keep their digits is warned of.

    Args:
        file: Is read, and run.
        model: What the file is to compute.
        data: Whose validation items are tried.
        batch_sizes: That the file takes.
        name: Begins the messages.
        is_hidden_here: Whether the file is right in ONNX Runtime all the same.

    Raises:
        ParityFailed: float16 does not hold its numbers; the message names the first layer.
    """
    program = onnx.load(file)
    if not is_half(program):
        return
    kinds = _types_of_tensors(program)
    half = [tensor for tensor, kind in kinds.items() if kind == "tensor(float16)"]
    batches = [(batch,) for batch in _few_inputs(data, batch_sizes)]

    def computed(rounding: Rounding) -> Computed:
        return _computed(in_float32(program, half, rounding), half, model, batches)

    seen = computed(rounded)
    beyond = [t for t, one in seen.seen.items() if one.is_beyond]
    # Another run of the graph, and most files need none.
    exact = computed(keep).seen if beyond else {}
    # What is infinite in float32 too is meant so, e.g. a mask.
    overflow = next((t for t in beyond if exact[t].is_finite), None)
    if _is_wrong(seen.parity, has_overflow=overflow is not None):
        raise _refusal(name, program, model, seen, overflow, exact, is_hidden_here=is_hidden_here)
    if overflow is not None:
        told = _told(overflow, seen.seen[overflow], program, model)
        log.warning("%s: %s; its outputs are right all the same on the items tried", name, told)
        return
    if _is_wrong(computed(rounded_and_flushed).parity, has_overflow=False):
        log.warning(
            "%s: right in float16, and wrong on devices that take numbers below %.2g for zero; "
            "an epsilon or a scale may be lost there: keep its operator in `keep_float32`",
            name,
            SMALLEST_NORMAL,
        )


def _types_of_tensors(program: ModelProto) -> dict[str, str]:
    """Return what each node makes, in the order of the nodes, as ONNX Runtime infers it."""
    twin = ModelProto()
    twin.CopyFrom(program)
    known = {value.name for value in twin.graph.output}
    made = [name for node in twin.graph.node for name in node.output if name]
    twin.graph.output.extend(ValueInfoProto(name=name) for name in made if name not in known)
    types = {o.name: str(o.type) for o in _session(twin).get_outputs()}
    return {name: types[name] for name in made}


def _session(program: ModelProto) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Its optimiser would drop casts, or compute constants before they are rounded.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = program.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _few_inputs(data: Dataset, batch_sizes: Sequence[int]) -> list[Inputs]:
    """Return some real batches, one of empty items and one of noise."""
    size = max((s for s in batch_sizes if s <= LARGEST_BATCH), default=min(batch_sizes))
    x, apply = data.validation.x, data.preprocessing.apply
    rows = np.arange(NUM_BATCHES * size).reshape(NUM_BATCHES, size) % len(x)
    empty = mapped(np.zeros_like, in_memory(repeated(x, size)))
    noise = data.preprocessing.random(size, np.random.default_rng(0))
    return [*(apply(x[r]) for r in rows), apply(empty), noise]


def _computed(
    program: ModelProto,
    half: Sequence[str],
    model: nn.Module,
    batches: Sequence[tuple[Inputs, ...]],
) -> Computed:
    session = _session(program)
    first = session.get_inputs()[0]
    probes = [f"{tensor}/{what}" for tensor in half for what in ("largest", "has_nan")]
    outputs = [o.name for o in session.get_outputs() if o.name not in set(probes)]
    found: list[NDArray[Any]] = []

    def run(batch: Any) -> dict[str, NDArray[np.float32]]:
        feeds = batch if isinstance(batch, dict) else {first.name: batch}
        with np.errstate(all="ignore"):
            values = session.run([*outputs, *probes], feeds)
        found.append(np.array(values[len(outputs) :], np.float64).reshape(-1, 2))
        return {n: np.asarray(v, np.float32) for n, v in zip(outputs, values, strict=False)}

    parity = parity_on(batches, model, run, is_half=True)
    # fmax passes over NaN, which `has_nan` tells.
    largest = np.fmax.reduce(np.stack(found))
    return Computed(
        parity=parity,
        seen={
            tensor: Seen(largest=float(size), has_nan=bool(nan))
            for tensor, (size, nan) in zip(half, largest, strict=True)
        },
    )


def _is_wrong(parity: Parity, *, has_overflow: bool) -> bool:
    """Return whether outputs are off by more than rounding makes them.

    A file rounds each of its tensors here, which the gate's bound for weights does not foresee.
    """
    allowed = parity.bound if has_overflow else max(parity.bound, ROUNDING_ALONE)
    return not (parity.max_abs <= allowed and parity.cosine >= LOWEST_COSINE)


def _refusal(
    name: str,
    program: ModelProto,
    model: nn.Module,
    found: Computed,
    overflow: str | None,
    exact: Mapping[str, Seen],
    *,
    is_hidden_here: bool,
) -> ParityFailed:
    parity = found.parity
    wrong = (
        f"{name}: computed in float16 it is not what the model computes: the largest error is "
        f"{parity.max_abs:.3g} output standard deviations (allowed {parity.bound:.3g}), the cosine "
        f"{parity.cosine:.6f}{parity.agreement_words}"
    )
    if overflow is None and (cut := _cut_weights(program)):
        readers = {n.op_type for n in program.graph.node if {*cut} & {*n.input}}
        return ParityFailed(
            f"{wrong}; `{'`, `'.join(cut[:3])}` held larger numbers than {LARGEST:.0f}, where"
            " float16 ends",
            hint=f"no file was kept; `keep_float32: [{', '.join(sorted(readers))}]` keeps them, or"
            " scale those weights down",
        )
    if overflow is None:
        return ParityFailed(
            wrong,
            hint="no file was kept; keep the operators that need digits or small numbers in "
            "float32, e.g. `keep_float32: [Softmax, Div, Sqrt]`",
        )
    large = {tensor for tensor, seen in exact.items() if seen.is_beyond}
    kinds = {n.op_type for n in program.graph.node if large & {*n.input, *n.output}}
    hidden = ". ONNX Runtime's CPU computes it in float32 and hides it" if is_hidden_here else ""
    return ParityFailed(
        f"{wrong}; {_told(overflow, found.seen[overflow], program, model)}{hidden}",
        hint=f"no file was kept; `keep_float32: [{', '.join(sorted(kinds))}]` keeps what makes and "
        "reads such numbers, or scale them down before that layer",
    )


def _told(tensor: str, seen: Seen, program: ModelProto, model: nn.Module) -> str:
    node = _maker(program, tensor)
    where = layer_of(model, program.graph, node)
    if seen.largest > LARGEST:
        return f"{where} reaches {seen.largest:.6g}, and float16 ends at {LARGEST:.0f}"
    return f"{where} answers NaN in float16, whose numbers end at {LARGEST:.0f}"


def _cut_weights(program: ModelProto) -> list[str]:
    """Return the names of float16 weights at the largest number, where the converter cuts."""
    halves = [i for i in program.graph.initializer if i.data_type == TensorProto.FLOAT16]
    arrays = {i.name: np.abs(numpy_helper.to_array(i)) for i in halves}
    return [name for name, array in arrays.items() if array.size and array.max() >= LARGEST]


def _maker(program: ModelProto, tensor: str) -> NodeProto:
    found: NodeProto = next(node for node in program.graph.node if tensor in node.output)
    return found
