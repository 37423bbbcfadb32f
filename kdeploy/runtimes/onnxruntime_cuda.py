"""ONNX Runtime on an NVIDIA GPU, all operators there or not at all.

Its CUDA kernels run Q/DQ files in floating point, which the proof of use then says. Times include
the copies to and from the GPU. Source:
https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.errors import ModelError, Unavailable
from kdeploy.machine import allowed_cores
from kdeploy.preprocessing import Inputs
from kdeploy.runtimes.contract import Proof, runtime
from kdeploy.runtimes.onnx_session import OnnxSession

PROVIDER = "CUDAExecutionProvider"


@runtime(formats={"onnx"}, device="cuda")
class OnnxruntimeCuda:
    """An ONNX file in ONNX Runtime's CUDA kernels."""

    def __init__(self, *, threads: int | None = None) -> None:
        """Import the library and load CUDA's.

        Args:
            threads: Threads on the processor's side; none: all cores that this process may use.
        """
        import onnxruntime

        onnxruntime.preload_dlls()
        self._onnxruntime = onnxruntime
        self._threads = threads or allowed_cores()
        self._session: OnnxSession | None = None

    @staticmethod
    def unavailable() -> str | None:
        try:
            ctypes.CDLL("libcuda.so.1")
        except OSError:
            return (
                "there is no NVIDIA driver here (libcuda.so.1): install it, or use another runtime"
            )
        if importlib.util.find_spec("onnxruntime") is None:
            return "the library `onnxruntime` is not installed: pip install onnxruntime-gpu"
        import onnxruntime

        if PROVIDER not in onnxruntime.get_available_providers():
            return (
                f"the installed onnxruntime has no {PROVIDER}: "
                "pip uninstall onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'"
            )
        return None

    def open(self, path: Path) -> None:
        try:
            self._session = OnnxSession(path, self._options, [PROVIDER])
        except ModelError as error:
            if "fallback" not in error.message:
                raise
            raise Unavailable(
                f"not every operator of {path} has a CUDA kernel: {error.message}",
                hint="use onnxruntime_cpu or tensorrt for this file",
            ) from error

    def infer(self, batch: Inputs) -> NDArray[np.float32]:
        assert self._session is not None, "infer before open"
        return self._session.infer(batch)

    def proof_of_use(self) -> Proof:
        assert self._session is not None, "proof_of_use before open"
        return self._session.proof_of_use()

    def close(self) -> None:
        self._session = None

    def _options(self) -> Any:
        options = self._onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = self._onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        # Without it an operator that CUDA lacks runs on the processor, and nobody is told.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        return options
