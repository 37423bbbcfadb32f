"""Put a model's codes into a decoder's OpenVINO graph, in the places of the weights that they are.

A constant becomes codes, a scale a block, and their product: what OpenVINO calls compressed weights
and computes with as they are. Constants are known by their values, so it does not matter how the
writer of the graph names them; equal ones share one. https://docs.openvino.ai, "Weight Compression"
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from kdeploy.errors import ModelError
from kdeploy.torch_module.block_quantized import (
    BlockQuantized,
    block_quantized,
    packed,
    unpacked,
)

WIDE_ENOUGH = 2
"""Dimensions of a matrix: what has fewer is no table of weights."""


def put_codes_in(graph: Any, model: nn.Module) -> None:
    """Replace constants of an OpenVINO graph by the codes that they were made of.

    Args:
        graph: An `openvino.Model` with float32 weights, those that the model computes with.
        model: Has layers on codes; without any nothing is changed.

    Raises:
        ModelError: a layer's weights are not in the graph as they are, or in parts of blocks.
    """
    layers = block_quantized(model)
    if not layers:
        return
    digests = {name: _digest(layer.weight.cpu().numpy()) for name, layer in layers.items()}
    known = {digest: name for name, digest in digests.items()}
    made: dict[str, Any] = {}
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "Constant" or len(node.get_output_shape(0)) != WIDE_ENOUGH:
            continue
        if str(node.get_output_element_type(0).to_string()) != "f32":
            continue
        name = known.get(_digest(node.data))
        if name is not None:
            if name not in made:
                made[name] = _decompressed(name, layers[name])
            for reader in node.output(0).get_target_inputs():
                reader.replace_source_output(made[name])
    missing = [name for name, digest in digests.items() if known[digest] not in made]
    if missing:
        raise ModelError(
            f"the graph holds {len(missing)} of {len(layers)} layers in another form than the "
            f"model does (`{missing[0]}` first): their codes have no place in it",
            hint=f"leave them float: `int4_weights: {{ignore: [{missing[0]}]}}`",
        )
    graph.validate_nodes_and_infer_types()


def _digest(weight: NDArray[Any]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(weight).tobytes(), digest_size=16).digest()


def _decompressed(name: str, layer: BlockQuantized) -> Any:
    """Return the output that holds the real weights (rows, columns) of codes, float32."""
    import openvino
    from openvino import opset15 as ops

    codes = layer.codes.cpu().numpy()
    rows, blocks = codes.shape[:2]
    columns = layer.weight.shape[1]
    if blocks * layer.block_size != columns:
        raise ModelError(
            f"the {columns} columns of `{name}` are no whole blocks of {layer.block_size}",
            hint=f"leave it float: `int4_weights: {{ignore: [{name}]}}`",
        )
    shape = [rows, blocks, layer.block_size]
    if layer.zero_points is None:
        # Codes around 2^(bits-1) as signed ones: its highest bit turns.
        turn = 0x88 if layer.bits == 4 else 0x80
        held = _constant(codes ^ np.uint8(turn), shape, f"i{layer.bits}")
        real = ops.convert(held, openvino.Type.f16)
    else:
        points = _points(layer, blocks)
        held = _constant(codes, shape, f"u{layer.bits}")
        centre = ops.convert(points, openvino.Type.f16)
        real = ops.subtract(ops.convert(held, openvino.Type.f16), centre)
    scales = ops.constant(layer.scales.cpu().numpy()[..., None])
    real = ops.multiply(real, scales)
    flat = ops.reshape(real, ops.constant(np.array([rows, columns])), special_zero=False)
    flat.set_friendly_name(f"{name}.weight")
    return ops.convert(flat, openvino.Type.f32).output(0)


def _points(layer: BlockQuantized, blocks: int) -> Any:
    """Return the zero points (rows, blocks, 1) of codes."""
    points = unpacked(layer.zero_points.cpu(), layer.bits)[:, :blocks]  # type: ignore[union-attr]
    held = packed(points.flatten(), layer.bits).numpy()
    return _constant(held, [len(points), blocks, 1], f"u{layer.bits}")


def _constant(packed: NDArray[np.uint8], shape: list[int], kind: str) -> Any:
    """Return a constant of bytes that hold 4- or 8-bit numbers, low bits first."""
    import openvino

    form = getattr(openvino.Type, kind)
    tensor = openvino.Tensor(form, openvino.Shape(shape))
    held = np.frombuffer(np.ascontiguousarray(packed).tobytes(), np.uint8)
    tensor.data.view(np.uint8).reshape(-1)[:] = held
    return openvino.op.Constant(tensor)
