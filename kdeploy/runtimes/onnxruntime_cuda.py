"""ONNX Runtime on an NVIDIA GPU, all operators there or not at all.

Its CUDA kernels run Q/DQ files in floating point, which the proof of use then says. `infer` takes
its batch from the processor and gives its answer back; what the GPU needed without these copies is
told by `device_seconds`, with events of torch on the stream that ONNX Runtime works on. Source:
https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdeploy.machine import allowed_cores
from kdeploy.runtimes.contract import Answer, Given, Proof, opened, runtime
from kdeploy.runtimes.onnx_gpu_session import OnnxGpuSession
from kdeploy.runtimes.onnx_provider import gpu_options, without_provider
from kdeploy.tensor_info import TensorInfo

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
        import torch  # noqa: F401 - brings the CUDA libraries that it and onnxruntime share

        onnxruntime.preload_dlls()
        self._threads = threads or allowed_cores()
        self._session: OnnxGpuSession | None = None

    @staticmethod
    def unavailable() -> str | None:
        return without_provider(PROVIDER)

    def open(self, path: Path) -> None:
        # Its own default is TF32; float32 is meant where the file says so.
        settings = {"use_tf32": "0"}
        self._session = OnnxGpuSession(path, self._options, PROVIDER, settings)

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return opened(self._session).inputs

    def infer(self, given: Given) -> Answer:
        return opened(self._session).infer(given)

    def device_seconds(self) -> float:
        return opened(self._session).device_seconds()

    def proof_of_use(self) -> Proof:
        return opened(self._session).proof_of_use()

    def close(self) -> None:
        self._session = None

    def _options(self) -> Any:
        return gpu_options(self._threads)
