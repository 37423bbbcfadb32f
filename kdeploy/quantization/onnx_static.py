"""INT8 of an ONNX file: onnxruntime.quantization with this package's observers and profiles.

https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html. The file is
prepared as that page asks (batch norms folded, constants folded, shapes inferred); its own
calibrators, which keep all tensors of all batches in memory, are not used.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from kdeploy.errors import ModelError, NotCalibrated, OrderError, UnknownName
from kdeploy.onnx_graph.graph import first, maker, second
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.onnx_graph.operators import is_quantized
from kdeploy.quantization.observers import RANGE_ESTIMATORS, Range, Statistics
from kdeploy.system.interruption import stop_if_asked
from kdeploy.system.temporary import temporary_folder
from kdeploy.torch_module.named_inputs import each_of

if TYPE_CHECKING:
    from onnx import ModelProto

# The first with scales per channel in QuantizeLinear.
LOWEST_OPSET = 13
# Protocol buffers cannot hold more; larger weights go to a file beside it.
LARGEST_FILE_BYTES = 2**31 - 2**20
# All tensors of a batch are there at once, unlike in torch.
ITEMS_AT_ONCE = 8
# Attention masks are infinite, or as large as a float can be; no code is that of any other value.
LARGEST_VALUE = 2.0**126
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# What ONNX Runtime has integer kernels for, or moves codes through, on a CPU. Softmax and
# normalisations are left out: they lose more than they gain.
INTEGER_OPERATORS = (
    *WEIGHTED,
    *("Add", "Mul", "Concat", "Split", "AveragePool", "GlobalAveragePool", "MaxPool", "Resize"),
    *("Relu", "Clip", "LeakyRelu", "Sigmoid", "Reshape", "Flatten", "Transpose", "Squeeze"),
    *("Unsqueeze", "Slice", "Pad"),
)


MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Slice", "Split")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What onnxruntime.quantization is told for a kind of device; weights are int8 per channel."""

    activation_type: str
    operators: tuple[str, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)


PROFILES: Mapping[str, Options] = {
    # A ReLU is absorbed where its range starts at the lowest code: uint8 or asymmetric int8.
    "cpu": Options(activation_type="QUInt8", operators=INTEGER_OPERATORS),
    "arm": Options(activation_type="QInt8", operators=INTEGER_OPERATORS),
    # TensorRT takes zero point 0 and float biases only, a pair at each weight and each input, and
    # fuses best when no output of a weighted operator has one; additions stay float.
    "tensorrt": Options(
        activation_type="QInt8",
        operators=WEIGHTED,
        extra={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "AddQDQPairToWeight": True,
            "DedicatedQDQPair": True,
            "OpTypesToExcludeOutputQuantization": list(WEIGHTED),
        },
    ),
}


def quantize_file(
    source: Path,
    target: Path,
    batches: Iterable[Tensor],
    *,
    profile: str,
    observer: str,
    reduce_range: bool = False,
) -> None:
    """Write `source` to `target` with its convolutions and products on 8-bit integers.

    Args:
        source: A float ONNX file; of several inputs, batches are `NamedTensors` by their names.
        target: Its weights go to a file beside it where they exceed two gigabytes.
        batches: Preprocessed inputs to calibrate on.
        profile: A name in `PROFILES`.
        observer: Which range the values lead to, a name in `observers.RANGE_ESTIMATORS`.
        reduce_range: 7-bit weights.

    Raises:
        OrderError: the file is quantized already.
        NotCalibrated: there were no batches.
        ModelError: it has nothing to quantize, or its values are not finite.
    """
    import onnx

    if profile not in PROFILES:
        raise UnknownName.among("profile", profile, PROFILES)
    options = PROFILES[profile]
    with temporary_folder("int8") as folder:
        model = _prepared(source, folder)
        _check(model, source)
        seen = _observed(model, batches, options.operators, folder)
        ranges = {name: RANGE_ESTIMATORS[observer](s) for name, s in seen.items() if s is not None}
        quantized = _quantized(model, ranges, options, reduce_range=reduce_range)
    if profile == "tensorrt":
        # What only other encodings quantize: `export.encodings` reads it.
        steps = {name: max(-float(low), float(high)) / 127 for name, (low, high) in ranges.items()}
        onnx.helper.set_model_props(quantized, {"kdeploy.steps": json.dumps(steps)})
    is_large = quantized.ByteSize() > LARGEST_FILE_BYTES
    onnx.save(quantized, target, save_as_external_data=is_large, location=f"{target.name}.data")


def quantized_file(
    model: OnnxModel,
    batches: Iterable[Tensor],
    *,
    profile: str,
    observer: str,
    reduce_range: bool = False,
) -> OnnxModel:
    """Return the model of a new file, see `quantize_file`; it lives as long as its model."""

    def write(path: Path) -> None:
        quantize_file(
            model.path,
            path,
            batches,
            profile=profile,
            observer=observer,
            reduce_range=reduce_range,
        )

    return OnnxModel.written_by(write)


def check_integers(path: Path) -> None:
    """Raise AssertionError unless a weighted operator of the file reads 8-bit weights."""
    graph = ir.load(path).graph
    weights = [second(node) for node in graph if node.op_type in WEIGHTED]
    assert any(maker(weight, "DequantizeLinear") for weight in weights), (
        "no weight of the file is INT8"
    )


def _prepared(source: Path, folder: Path) -> ModelProto:
    """Return the file's graph as the quantizer wants it: folded, shaped, of opset 13 or later."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = onnx.load(source)
    stored = {t.name for t in model.graph.initializer}
    for replaceable in [i for i in model.graph.input if i.name in stored]:
        model.graph.input.remove(replaceable)  # a weight that a caller may replace cannot be folded
    model.ir_version = max(model.ir_version, 7)
    is_large = model.ByteSize() > LARGEST_FILE_BYTES
    given, path = folder / "given.onnx", folder / "prepared.onnx"
    onnx.save(model, given, save_as_external_data=is_large, location="given.onnx.data")
    quant_pre_process(given, path, skip_symbolic_shape=True, save_as_external_data=is_large)
    prepared = onnx.load(path)
    if max(o.version for o in prepared.opset_import if o.domain in ("", "ai.onnx")) < LOWEST_OPSET:
        converted = onnx.version_converter.convert_version(prepared, LOWEST_OPSET)
        prepared = onnx.shape_inference.infer_shapes(converted)
    for index, node in enumerate(prepared.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"  # nodes are excluded by name
    return prepared


def _check(model: ModelProto, source: Path) -> None:
    operators = {node.op_type for node in model.graph.node}
    if is_quantized(operators):
        raise OrderError(
            f"{source} is quantized already", hint="quantize the float file it was made of"
        )
    if not operators & set(WEIGHTED):
        raise ModelError(
            f"{source} has nothing to quantize: no {', '.join(WEIGHTED)}",
            hint="leave the INT8 step out",
        )


def _observed(
    model: ModelProto, batches: Iterable[Tensor], operators: tuple[str, ...], folder: Path
) -> dict[str, Statistics | None]:
    """Return what each float tensor at an operator looked like, None where it was not finite."""
    names = _tensors(model, operators)
    session = _session(model, names, folder)
    taken = {i.name: i for i in session.get_inputs()}
    first = next(iter(taken))
    asked = [name for name in names if name not in taken]
    seen: dict[str, Statistics | None] = {name: Statistics() for name in names}
    is_empty = True
    sizes = [i.shape[0] for i in taken.values() if i.shape and isinstance(i.shape[0], int)]
    for batch in _pieces(batches, sizes[0] if sizes else None):
        stop_if_asked()
        is_empty = False
        fed = {
            name or first: x.numpy().astype(_numbers(taken[name or first].type))
            for name, x in each_of(batch)
        }
        values = {**dict(zip(asked, session.run(asked, fed), strict=True)), **fed}
        for name, statistics in seen.items():
            if statistics is None or not np.all(np.abs(values[name]) < LARGEST_VALUE):
                seen[name] = None
            elif values[name].size:
                statistics.see(torch.from_numpy(np.asarray(values[name])))
    if is_empty:
        raise NotCalibrated("there was no data to calibrate INT8 on", hint="give some batches")
    outputs = [o.name for o in model.graph.output]
    if any(seen.get(name, 0) is None for name in outputs):
        raise ModelError(
            "calibration: the file's output has values that are not finite",
            hint="check the weights and the preprocessing of the data",
        )
    return seen


def _numbers(kind: str) -> Any:
    return {"tensor(int64)": np.int64, "tensor(int32)": np.int32}.get(kind, np.float32)


def _tensors(model: ModelProto, operators: tuple[str, ...]) -> list[str]:
    import onnx

    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    floats = {v.name for v in values if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT} - {
        t.name for t in model.graph.initializer
    }
    at_operators = [
        name
        for node in model.graph.node
        if node.op_type in operators
        for name in (*node.input, *node.output)
    ]
    return [name for name in dict.fromkeys(at_operators) if name in floats]


def _session(model: ModelProto, names: list[str], folder: Path) -> Any:
    """Return a session that gives the named tensors too."""
    import onnx
    import onnxruntime

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    taken = {v.name for v in (*model.graph.output, *model.graph.input)}
    watched.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in taken)
    is_large = model.ByteSize() > LARGEST_FILE_BYTES
    path = folder / "watched.onnx"
    onnx.save(watched, path, save_as_external_data=is_large, location="watched.onnx.data")
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def _pieces(batches: Iterable[Tensor], batch_size: object) -> Iterator[Tensor]:
    """Yield the batches in pieces that the file takes; of a fixed size only whole ones."""
    size = batch_size if isinstance(batch_size, int) else None
    for batch in batches:
        step = size or ITEMS_AT_ONCE
        for start in range(0, len(batch), step):
            piece = batch[start : start + step].cpu()
            if size is None or len(piece) == size:
                yield piece


def _quantized(
    model: ModelProto, ranges: Mapping[str, Range], options: Options, *, reduce_range: bool
) -> ModelProto:
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
    from onnxruntime.quantization.calibrate import TensorsData

    known = {name: tuple(np.array(v, np.float32) for v in r) for name, r in ranges.items()}
    constants = {t.name for t in model.graph.initializer}
    floats = set(_tensors(model, options.operators))
    without_range = [
        node.name
        for node in model.graph.node
        if any(name in floats - known.keys() - constants for name in (*node.input, *node.output))
    ]
    kept_float = _ends(ir.from_proto(model).graph)
    quantizer = QDQQuantizer(
        model,
        True,  # per channel
        reduce_range,
        QuantType.QInt8,
        QuantType[options.activation_type],
        TensorsData(CalibrationMethod.MinMax, known),
        [],  # nodes to quantize: all
        [*without_range, *kept_float],
        list(options.operators),
        dict(options.extra),
    )
    quantizer.quantize_model()
    written: ModelProto = quantizer.model.model
    return written


def _ends(graph: ir.Graph) -> list[str]:
    """Return the names of operators behind the last product: what decodes boxes, joins outputs.

    Their tensors may be pixels beside probabilities, which one scale would round to nothing
    (ultralytics/ultralytics#1683). Activations stay with the layer before them, and a layer that
    reads a softmax, the mean of a distribution, belongs to the end too.
    """
    nodes = list(graph)
    products = {n for n in nodes if n.op_type in WEIGHTED and not _reads_softmax(n)}
    leading: set[ir.Node] = set()
    for node in reversed(nodes):  # readers stand behind what they read
        if any(n in leading or n in products for value in node.outputs for n in value.consumers()):
            leading.add(node)
    ends = [n for n in nodes if n not in leading and n not in products]
    return [str(n.name) for n in ends if not _is_activation_of(n, products)]


def _reads_softmax(node: ir.Node) -> bool:
    value = node.inputs[0]
    while (before := maker(value, *MOVES)) is not None:
        value = before.inputs[0]
    return maker(value, "Softmax") is not None


def _is_activation_of(node: ir.Node, products: set[ir.Node]) -> bool:
    return node.op_type in ("Relu", "Clip") and maker(first(node)) in products
