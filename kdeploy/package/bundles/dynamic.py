"""A dynamic model: several ONNX files, asked in turn until one is sure; by ONNX Runtime."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from kdeploy.onnx_graph.checks import read_onnx
from kdeploy.package.contract import FileFacts, bundle
from kdeploy.package.ports import ports_of
from kdeploy.package.runner.python.rules import QUANTIZED
from kdeploy.preprocessing import Inputs
from kdeploy.runtimes.dynamic_file import (
    dynamic_inputs,
    dynamic_outputs,
    part_paths,
    read_dynamic,
)
from kdeploy.runtimes.dynamic_session import clear_rows


@bundle(
    formats={"dynamic"},
    runtime="onnxruntime_cpu",
    libraries={"onnxruntime": "MIT, Copyright (c) Microsoft Corporation"},
    native="cpp",
)
class Dynamic:
    """`model.dynamic`, which says when an answer is final, and its parts `model.part-0.onnx`."""

    @staticmethod
    def facts_of(path: Path) -> FileFacts:
        told = read_dynamic(path)
        inputs, outputs = ports_of(path, dynamic_inputs(path), dynamic_outputs(path))
        graphs = [read_onnx(part).graph for part in part_paths(path, len(told.parts))]
        return FileFacts(
            inputs=inputs,
            outputs=outputs,
            is_quantized=any(n.op_type.startswith(QUANTIZED) for g in graphs for n in g.node),
            dynamic=told.to_dict(),
        )

    @staticmethod
    def copy(path: Path, folder: Path) -> Path:
        target = folder / "model.dynamic"
        shutil.copyfile(path, target)
        count = len(read_dynamic(path).parts)
        for source, part in zip(part_paths(path, count), part_paths(target, count), strict=True):
            shutil.copyfile(source, part)
        return target

    @staticmethod
    def golden_rows(path: Path, inputs: Inputs, count: int) -> list[int]:
        """Return rows that each part answers, those that no rounding moves to another part."""
        return clear_rows(path, inputs, count)

    @staticmethod
    def open_model(path: str, threads: int, is_plain: bool = False) -> Any:
        import json

        import numpy
        import onnxruntime

        levels = onnxruntime.GraphOptimizationLevel
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = (
            levels.ORT_DISABLE_ALL if is_plain else levels.ORT_ENABLE_ALL
        )
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors; warnings would stand between our own lines
        with open(path, encoding="utf-8") as opened:  # noqa: PTH123 - a device has no pathlib here
            parts = json.load(opened)["parts"]
        stem = path[: -len(".dynamic")]
        providers = ["CPUExecutionProvider"]
        sessions = [
            onnxruntime.InferenceSession(f"{stem}.part-{number}.onnx", options, providers=providers)
            for number in range(len(parts))
        ]
        names = [[output.name for output in session.get_outputs()] for session in sessions]

        class Parts:
            """Asks one part after the other; `part` is the one that answered last."""

            part = 0

            def __call__(self, feeds: Any) -> Any:
                known = dict(feeds)
                for number, (told, session) in enumerate(zip(parts, sessions)):  # noqa: B905
                    given = {own: known[of] for own, of in told["takes"].items()}
                    outputs = dict(zip(names[number], session.run(None, given)))  # noqa: B905
                    logits = outputs[told["logits"]]
                    self.part = number
                    if told["threshold"] is None:
                        break
                    apart = (logits - logits.max()) / numpy.float32(told["temperature"])
                    if 1 / numpy.exp(apart).sum() >= told["threshold"]:
                        break
                    known.update(outputs)
                return {parts[0]["logits"]: logits}

        return Parts()
