"""ONNX files of a cost that suites choose, without a framework."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 9


def write_convolutions(
    path: Path, *, channels: int, size: int, layers: int, extra_nodes: int = 0
) -> Path:
    """Write 3x3 convolutions with ReLU over images, then the mean of each channel.

    Args:
        path: The file; inputs are (batch, channels, size, size).
        channels: Of the input and of every layer.
        size: Height and width.
        layers: How many convolutions.
        extra_nodes: How many nodes that change (batch, channels) numbers follow: each costs little
            more than its start, so they set the time in small equal steps.
    """
    generator = np.random.default_rng(0)
    scale = 1 / np.sqrt(9 * channels)
    weights, nodes, last = [], [], "x"
    for index in range(layers):
        values = generator.normal(0, scale, (channels, channels, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"w{index}"))
        pads = [1, 1, 1, 1]
        nodes.append(helper.make_node("Conv", [last, f"w{index}"], [f"c{index}"], pads=pads))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        last = f"r{index}"
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    names = ["flat", *(f"e{index}" for index in range(extra_nodes))]
    extra = [helper.make_node("Sin", [a], [b]) for a, b in itertools.pairwise(names)]
    last_node = helper.make_node("Identity", [names[-1]], ["y"])
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [*nodes, *extra, last_node],
        "convolutions",
        [value("x", TensorProto.FLOAT, ["batch", channels, size, size])],
        [value("y", TensorProto.FLOAT, ["batch", channels])],
        weights,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path
