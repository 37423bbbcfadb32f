"""An ONNX file, run by ONNX Runtime on the processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdeploy.onnx_graph.checks import copy_file, opset_of, read_onnx
from kdeploy.onnx_graph.facts import inputs_of, outputs_of, properties
from kdeploy.onnx_graph.folded_input import FOLDED
from kdeploy.package.contract import FileFacts, bundle
from kdeploy.package.ports import ports_of
from kdeploy.package.runner.python.rules import QUANTIZED


@bundle(
    formats={"onnx"},
    runtime="onnxruntime_cpu",
    libraries={"onnxruntime": "MIT, Copyright (c) Microsoft Corporation"},
    native="cpp",
)
class Onnx:
    """`model.onnx`, and beside it the weights of one that is too large for a single file."""

    @staticmethod
    def facts_of(path: Path) -> FileFacts:
        model = read_onnx(path)
        is_folded = FOLDED in properties(model)
        inputs, outputs = ports_of(
            path, inputs_of(path), outputs_of(path), takes_any_size=is_folded
        )
        return FileFacts(
            inputs=inputs,
            outputs=outputs,
            is_quantized=any(n.op_type.startswith(QUANTIZED) for n in model.graph.node),
            opset=opset_of(model),
            is_folded=is_folded,
        )

    @staticmethod
    def copy(path: Path, folder: Path) -> Path:
        copy_file(path, folder / "model.onnx")
        return folder / "model.onnx"

    @staticmethod
    def open_model(path: str, threads: int, is_plain: bool = False) -> Any:
        import onnxruntime

        levels = onnxruntime.GraphOptimizationLevel
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = (
            levels.ORT_DISABLE_ALL if is_plain else levels.ORT_ENABLE_ALL
        )
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors; warnings would stand between our own lines
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return lambda feeds: dict(zip(names, session.run(names, feeds)))  # noqa: B905 - Python 3.9
