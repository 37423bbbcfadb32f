"""Linear classifiers as ONNX files, and a cascade of two of them, without a training."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kdeploy.runtimes.dynamic_file import DynamicFile, Part, part_paths, write_dynamic

FEATURES, CLASSES = 6, 3
CALIBRATION = {
    "items": 100,
    "risk": 0.01,
    "confidence": 0.9,
    "early_share": 0.5,
    "early_share_interval": [0.4, 0.6],
    "lost_items": 0,
    "p_value": 0.05,
}


def weights(seed):
    return np.random.default_rng(seed).normal(size=(FEATURES, CLASSES)).astype(np.float32)


def write_linear(path, matrix, *, taken="x", given="logits", is_signal=False):
    nodes = [helper.make_node("MatMul", [taken, "w"], [given])]
    if is_signal:  # of one channel
        nodes = [
            helper.make_node("Flatten", [taken], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], [given]),
        ]
    item = [1, matrix.shape[0]] if is_signal else [matrix.shape[0]]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *sizes])
        for name, sizes in ((taken, item), (given, [matrix.shape[1]]))
    ]
    graph = helper.make_graph(
        nodes, "linear", ends[:1], ends[1:], [numpy_helper.from_array(matrix, "w")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
    return path


def write_cascade(path, *, threshold=0.7, temperature=1.3):
    """Write a cascade whose second part calls its tensors otherwise; return both weights."""
    matrices = [weights(1), weights(2)]
    names = [("x", "logits"), ("items", "scores")]
    parts = []
    for number, target in enumerate(part_paths(path, 2)):
        taken, given = names[number]
        write_linear(target, matrices[number], taken=taken, given=given)
        parts.append(
            Part(
                label=("student", "teacher")[number],
                sha256=hashlib.sha256(target.read_bytes()).hexdigest(),
                takes={taken: "x"},
                logits=given,
                temperature=temperature,
                threshold=(threshold, None)[number],
            )
        )
    write_dynamic(DynamicFile(kind="cascade", parts=tuple(parts), calibration=CALIBRATION), path)
    return matrices


def expected(items, matrices, *, threshold=0.7, temperature=1.3):
    """Return logits and the part that gives them, item by item, in plain numpy."""
    rows, by = [], []
    for item in items:
        first = item @ matrices[0]
        probabilities = np.exp(first / temperature) / np.exp(first / temperature).sum()
        is_sure = probabilities.max() >= threshold
        rows.append(first if is_sure else item @ matrices[1])
        by.append(0 if is_sure else 1)
    return np.array(rows), by
