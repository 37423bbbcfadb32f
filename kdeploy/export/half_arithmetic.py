"""What float16 arithmetic makes of a file: a device keeps every tensor in it, this processor not.

ONNX Runtime's CPU computes most operators of a float16 file in float32 and hands the result on
unrounded, so that a number beyond 65504 passes here and is infinite on a GPU or an NPU. So the
graph is computed once more on a few items, with each float16 tensor rounded as soon as it is made;
sums inside of an operator stay float32, as those devices accumulate. Only the largest number of
each tensor is kept, so that memory is that of one run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper
from onnx import numpy_helper as numpy_of
from torch import nn

from kdeploy.data.contract import Dataset
from kdeploy.errors import ParityFailed
from kdeploy.export.half import LARGEST
from kdeploy.export.layer_names import layer_of
from kdeploy.export.parity import LOWEST_COSINE, Parity, parity_on
from kdeploy.preprocessing import Inputs

log = logging.getLogger(__name__)
# Batches of real items; a batch is one of those of the parity gate, and as small.
NUM_BATCHES = 4
LARGEST_BATCH = 8
# Below it float16 loses digits, and some devices take zero instead.
SMALLEST_NORMAL = float(np.finfo(np.float16).tiny)
# Rounding alone moves an output by no more than its standard deviation.
ROUNDING_ALONE = 1.0
Rounding = Callable[[GraphProto, str, str], None]


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
    file: Path, model: nn.Module, data: Dataset, *, batch_sizes: Sequence[int], name: str
) -> None:
    """Compute a file with float16 tensors in float16; pass over one that has none.

    A file that is right only as long as small numbers keep their digits is warned of.

    Raises:
        ParityFailed: float16 does not hold its numbers; the message names the first layer.
    """
    program = onnx.load(file)
    if not is_half(program):
        return
    kinds = _types_of_tensors(program)
    half = [tensor for tensor, kind in kinds.items() if kind == "tensor(float16)"]
    batches = [(batch,) for batch in _few_inputs(data, batch_sizes)]

    def computed(rounding: Rounding | None) -> Computed:
        return _computed(in_float32(program, half, rounding), half, model, batches)

    rounded = computed(_round)
    beyond = [t for t, seen in rounded.seen.items() if seen.is_beyond]
    exact = computed(None).seen if beyond else {}
    # What is infinite in float32 too is meant so, e.g. a mask.
    overflow = next((t for t in beyond if exact[t].is_finite), None)
    if _is_wrong(rounded.parity, has_overflow=overflow is not None):
        raise _refusal(name, program, model, rounded, overflow, exact)
    if overflow is not None:
        told = _told(overflow, rounded.seen[overflow], program, model)
        log.warning("%s: %s; its outputs are right all the same on the items tried", name, told)
        return
    if _is_wrong(computed(_round_and_flush).parity, has_overflow=False):
        log.warning(
            "%s: right in float16, and wrong on devices that take numbers below %.2g for zero; "
            "an epsilon or a scale may be lost there: keep its operator in `keep_float32`",
            name,
            SMALLEST_NORMAL,
        )


def is_half(program: ModelProto) -> bool:
    """Return whether a file holds float16 numbers, or makes them."""
    held = any(t.data_type == TensorProto.FLOAT16 for t in program.graph.initializer)
    return held or any(_cast_to_half(node) is not None for node in program.graph.node)


def in_float32(
    program: ModelProto, half: Sequence[str], rounding: Rounding | None = None
) -> ModelProto:
    """Return the graph in float32 with the tensors of `half` rounded to float16 once made.

    Each of them adds two outputs, its largest magnitude and whether it is no number anywhere.
    """
    twin = ModelProto()
    twin.CopyFrom(program)
    graph, chosen = twin.graph, set(half)
    _widen(graph)
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        made = [tensor for tensor in node.output if tensor in chosen]
        node.output[:] = [_exact(t) if t in chosen else t for t in node.output]
        graph.node.append(node)
        for tensor in made:
            (rounding or _keep)(graph, _exact(tensor), tensor)
            _watch(graph, tensor)
    return twin


def _widen(graph: GraphProto) -> None:
    """Make float32 of all that is float16, in branches and loops too."""
    del graph.value_info[:]
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in graph.node:
        cast = _cast_to_half(node)
        if cast is not None:
            cast.i = TensorProto.FLOAT
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _widen_tensor(attribute.t)
            if attribute.HasField("g"):
                _widen(attribute.g)


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        values = numpy_of.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_of.from_array(values, tensor.name))


def _cast_to_half(node: NodeProto) -> Any:
    """Return the attribute that makes a node's output float16."""
    named = (a for a in node.attribute if a.name in ("to", "dtype"))
    return next((a for a in named if a.i == TensorProto.FLOAT16), None)


def _exact(tensor: str) -> str:
    return f"{tensor}/exact"


def _keep(graph: GraphProto, source: str, target: str) -> None:
    graph.node.append(helper.make_node("Identity", [source], [target]))


def _round(graph: GraphProto, source: str, target: str) -> None:
    half = f"{target}/half"
    graph.node.append(helper.make_node("Cast", [source], [half], to=TensorProto.FLOAT16))
    graph.node.append(helper.make_node("Cast", [half], [target], to=TensorProto.FLOAT))


def _round_and_flush(graph: GraphProto, source: str, target: str) -> None:
    """Round, and set to zero what float16 holds with fewer digits."""
    rounded, size, small = (f"{target}/{part}" for part in ("rounded", "size", "small"))
    bound, zero = f"{target}/bound", f"{target}/zero"
    _round(graph, source, rounded)
    for name, value in ((bound, SMALLEST_NORMAL), (zero, 0.0)):
        graph.initializer.append(numpy_of.from_array(np.array(value, np.float32), name))
    graph.node.append(helper.make_node("Abs", [rounded], [size]))
    graph.node.append(helper.make_node("Less", [size, bound], [small]))
    graph.node.append(helper.make_node("Where", [small, zero, rounded], [target]))


def _watch(graph: GraphProto, tensor: str) -> None:
    size, largest = f"{tensor}/magnitude", f"{tensor}/largest"
    strange, number, has_nan = f"{tensor}/nan", f"{tensor}/is_nan", f"{tensor}/has_nan"
    graph.node.append(helper.make_node("Abs", [_exact(tensor)], [size]))
    graph.node.append(helper.make_node("ReduceMax", [size], [largest], keepdims=0))
    graph.node.append(helper.make_node("IsNaN", [_exact(tensor)], [strange]))
    graph.node.append(helper.make_node("Cast", [strange], [number], to=TensorProto.FLOAT))
    graph.node.append(helper.make_node("ReduceMax", [number], [has_nan], keepdims=0))
    for name in (largest, has_nan):
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, []))


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
    empty = np.zeros_like(np.asarray(x[: min(size, len(x))]))
    noise = data.preprocessing.random(size, np.random.default_rng(0))
    return [*(apply(x[r]) for r in rows), apply(np.resize(empty, (size, *x.shape[1:]))), noise]


def _computed(
    program: ModelProto,
    half: Sequence[str],
    model: nn.Module,
    batches: Sequence[tuple[Inputs, ...]],
) -> Computed:
    session = _session(program)
    (given,) = session.get_inputs()
    probes = [f"{tensor}/{what}" for tensor in half for what in ("largest", "has_nan")]
    first = session.get_outputs()[0].name
    found: list[NDArray[Any]] = []

    def run(batch: Inputs) -> NDArray[np.float32]:
        with np.errstate(all="ignore"):
            answer, *seen = session.run([first, *probes], {given.name: batch})
        found.append(np.array(seen, np.float64).reshape(-1, 2))
        return np.asarray(answer, np.float32)

    parity = parity_on(batches, model, run, is_half=True)
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
    rounded: Computed,
    overflow: str | None,
    exact: Mapping[str, Seen],
) -> ParityFailed:
    parity = rounded.parity
    wrong = (
        f"{name}: computed in float16 it is not what the model computes: the largest error is "
        f"{parity.max_abs:.3g} output standard deviations (allowed {parity.bound:.3g}), the cosine "
        f"{parity.cosine:.6f}, top-1 agreement {parity.agreement:.1%}"
    )
    if overflow is None:
        return ParityFailed(
            wrong,
            hint="no file was kept; keep the operators that need digits or small numbers in "
            "float32, e.g. `keep_float32: [Softmax, Div, Sqrt]`",
        )
    large = {tensor for tensor, seen in exact.items() if seen.is_beyond}
    kinds = {n.op_type for n in program.graph.node if large & {*n.input, *n.output}}
    return ParityFailed(
        f"{wrong}; {_told(overflow, rounded.seen[overflow], program, model)}. ONNX Runtime's CPU "
        "computes it in float32 and hides it",
        hint=f"no file was kept; `keep_float32: [{', '.join(sorted(kinds))}]` keeps what makes and "
        "reads such numbers, or scale them down before that layer",
    )


def _told(tensor: str, seen: Seen, program: ModelProto, model: nn.Module) -> str:
    node = _maker(program, tensor)
    where = layer_of(model, program.graph, node)
    if seen.largest > LARGEST:
        return f"{where} reaches {seen.largest:.6g}, and float16 ends at {LARGEST:.0f}"
    return f"{where} answers NaN in float16, whose numbers end at {LARGEST:.0f}"


def _maker(program: ModelProto, tensor: str) -> NodeProto:
    found: NodeProto = next(node for node in program.graph.node if tensor in node.output)
    return found
