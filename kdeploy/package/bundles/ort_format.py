"""A file of ONNX Runtime's own format, which a device opens without optimising it first."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from kdeploy.package.contract import FileFacts, bundle
from kdeploy.package.ports import ports_of
from kdeploy.runtimes.files import inputs_of, outputs_of
from kdeploy.runtimes.run import open_runtime


@bundle(
    formats={"ort_format"},
    runtime="ort_format",
    libraries={"onnxruntime": "MIT, Copyright (c) Microsoft Corporation"},
    native="cpp",
)
class OrtFormat:
    """`model.ort`: it fits processors as that on which it was exported."""

    @staticmethod
    def facts_of(path: Path) -> FileFacts:
        taken, given = inputs_of(path, "ort_format"), outputs_of(path, "ort_format")
        inputs, outputs = ports_of(path, taken or (), given or ())
        opened = open_runtime("ort_format", path, threads=1)
        is_quantized = opened.proof_of_use().is_quantized
        opened.close()
        return FileFacts(inputs=inputs, outputs=outputs, is_quantized=is_quantized)

    @staticmethod
    def copy(path: Path, folder: Path) -> Path:
        return Path(shutil.copyfile(path, folder / "model.ort"))

    @staticmethod
    def open_model(path: str, threads: int, is_plain: bool = False) -> Any:
        import onnxruntime

        # The graph was optimised when it was written: there is no plain way to compute it.
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors; warnings would stand between our own lines
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return lambda feeds: dict(zip(names, session.run(names, feeds)))  # noqa: B905 - Python 3.9
