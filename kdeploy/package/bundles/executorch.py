"""A `.pte` file for ExecuTorch; its Python runner proves it, devices run it from C++."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from kdeploy.package.contract import FileFacts, bundle
from kdeploy.package.ports import ports_of
from kdeploy.runtimes.files import inputs_of, outputs_of
from kdeploy.runtimes.run import open_runtime


@bundle(
    formats={"executorch"},
    runtime="executorch",
    libraries={
        "executorch": "BSD-3-Clause, Copyright (c) Meta Platforms, Inc. and affiliates",
        "torch": "BSD-3-Clause, Copyright (c) the PyTorch authors",
    },
)
class Executorch:
    """`model.pte`, with the names of its inputs and outputs inside."""

    @staticmethod
    def facts_of(path: Path) -> FileFacts:
        taken, given = inputs_of(path, "executorch"), outputs_of(path, "executorch")
        inputs, outputs = ports_of(path, taken or (), given or ())
        opened = open_runtime("executorch", path, threads=1)
        is_quantized = opened.proof_of_use().is_quantized
        opened.close()
        return FileFacts(inputs=inputs, outputs=outputs, is_quantized=is_quantized)

    @staticmethod
    def copy(path: Path, folder: Path) -> Path:
        return Path(shutil.copyfile(path, folder / "model.pte"))

    @staticmethod
    def open_model(path: str, threads: int, is_plain: bool = False) -> Any:
        import json

        import numpy
        import torch
        from executorch.extension.pybindings import portable_lib

        # What is fused was decided when the file was written: there is no plain way to compute it.
        # Of several files: a pool that is made anew leaves the one before to wait for ever.
        if portable_lib._threadpool_get_thread_count() != threads:
            portable_lib._unsafe_reset_threadpool(threads)
        program = portable_lib._load_program(path)
        method = program.load_method("forward")
        told = json.loads(program.load_method("kdeploy_ends").call([])[0])
        inputs, outputs = ([one[0] for one in told[kind]] for kind in ("inputs", "outputs"))

        def run(feeds: Any) -> Any:
            given = [torch.from_numpy(numpy.ascontiguousarray(feeds[name])) for name in inputs]
            answers = method.call(given)
            return {name: tensor.numpy() for name, tensor in zip(outputs, answers)}  # noqa: B905 - Python 3.9

        return run
