"""A session of ONNX Runtime that keeps its input and its output on the GPU, with a clock there.

The provider is given a stream of torch's, so that the events around the run stand in the same queue
as its kernels, after the copy of the input and before that of the output. Sources:
https://onnxruntime.ai/docs/performance/device-tensor.html, and `user_compute_stream` in
https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.errors import ModelError, Unavailable
from kdeploy.kernels.cuda_stream import CudaStream
from kdeploy.preprocessing import Inputs
from kdeploy.runtimes.contract import Proof
from kdeploy.runtimes.onnx_session import OnnxSession, Options

ELEMENTS = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


class OnnxGpuSession:
    """One opened file; every operator of it on a GPU, or `open` fails."""

    def __init__(
        self,
        path: Path,
        options: Options,
        provider: str,
        settings: Mapping[str, Any],
        *,
        others: Sequence[str] = (),
    ) -> None:
        """Open the file.

        Args:
            path: The file.
            options: Makes the session's options.
            provider: Who must run it.
            settings: The provider's own options.
            others: Providers for what the first one leaves.
        """
        import onnxruntime
        import torch

        self._torch: Any = torch
        self._path = path
        self._run_options = onnxruntime.RunOptions()
        # Else `run` waits for the GPU, and the event behind it is set once it has come back.
        self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._stream = CudaStream()
        own = {**settings, "user_compute_stream": str(self._stream.handle)}
        stream = {"user_compute_stream": str(self._stream.handle)}
        providers = [(provider, own), *((other, stream) for other in others)]
        self._opened = _opened(path, options, providers)
        self._session = self._opened.session
        source = self._session.get_inputs()[0]
        self._input, self._expected = source.name, source.shape
        self._element = ELEMENTS[source.type]
        self._output = self._session.get_outputs()[0].name
        self._buffer: Any = None

    @property
    def session(self) -> Any:
        """The `InferenceSession`."""
        return self._session

    def infer(self, batch: Inputs) -> NDArray[np.float32]:
        """Return the first output."""
        host = self._torch.from_numpy(batch.astype(self._element, copy=False))
        if self._buffer is None or self._buffer.shape != host.shape:
            self._bind(host)
        with self._stream.used():
            self._buffer.copy_(host)
            with self._stream.timed():
                self._run()
            self._stream.synchronize()  # ONNX Runtime copies by another stream
            answer: NDArray[Any] = self._binding.copy_outputs_to_cpu()[0]
        return answer.astype(np.float32, copy=False)

    def device_seconds(self) -> float:
        """Return how long the last `infer` took on the GPU, without the copies."""
        return self._stream.seconds()

    def proof_of_use(self) -> Proof:
        """Return what runs, from the graph that the session saves."""
        return self._opened.proof_of_use()

    def _bind(self, host: Any) -> None:
        self._buffer = self._stream.room(host.shape, host.dtype)
        self._binding = self._session.io_binding()
        self._binding.bind_input(
            name=self._input,
            device_type="cuda",
            device_id=0,
            element_type=self._element,
            shape=tuple(host.shape),
            buffer_ptr=self._buffer.data_ptr(),
        )
        self._binding.bind_output(self._output, "cuda")

    def _run(self) -> None:
        try:
            self._session.run_with_iobinding(self._binding, self._run_options)
        except Exception as error:  # onnxruntime's errors have no common base
            raise ModelError(
                f"{self._path} cannot run an input of shape {list(self._buffer.shape)}; it takes "
                f"{self._expected}: {' '.join(str(error).split())[:300]}",
                hint="check the data's shape and whether the file's batch size is fixed",
            ) from error


def _opened(path: Path, options: Options, providers: Sequence[Any]) -> OnnxSession:
    try:
        return OnnxSession(path, options, providers)
    except ModelError as error:
        if "fallback" not in error.message:
            raise
        raise Unavailable(
            f"not every operator of {path} has a kernel for the GPU: {error.message}",
            hint="use `onnxruntime_cpu` or `tensorrt` for this file",
        ) from error
