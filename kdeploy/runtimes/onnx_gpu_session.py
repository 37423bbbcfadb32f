"""A session of ONNX Runtime that keeps its inputs and outputs on the GPU, with a clock there.

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
from kdeploy.onnx_graph.checks import unfit
from kdeploy.runtimes.contract import Answer, Given, Proof, by_name
from kdeploy.runtimes.onnx_session import OnnxSession, Options


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
        # All on one stream: what one provider writes the next one reads without waiting.
        providers = [(provider, own), *((other, stream) for other in others)]
        self._opened = _opened(path, options, providers)
        self._session = self._opened.session
        self.inputs = self._opened.inputs
        self._elements = {info.name: np.dtype(info.dtype) for info in self.inputs}
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._buffers: dict[str, Any] = {}

    @property
    def session(self) -> Any:
        """The `InferenceSession`."""
        return self._session

    def infer(self, given: Given) -> Answer:
        """Return every output by its name; numbers of half precision as float32."""
        feeds = by_name(given, list(self._elements), self._path)
        hosts = {
            name: self._torch.from_numpy(array.astype(self._elements[name], copy=False))
            for name, array in feeds.items()
        }
        known = self._buffers
        # Bound once for each shape: binding allocates, and would be timed with every call.
        if any(name not in known or known[name].shape != x.shape for name, x in hosts.items()):
            self._bind(hosts)
        with self._stream.used():
            for name, host in hosts.items():
                self._buffers[name].copy_(host)
            with self._stream.timed():
                self._run()
            self._stream.synchronize()  # ONNX Runtime copies by another stream
            answers: list[NDArray[Any]] = self._binding.copy_outputs_to_cpu()
        return {
            name: answer.astype(np.float32, copy=False) if answer.dtype.kind == "f" else answer
            for name, answer in zip(self._outputs, answers, strict=True)
        }

    def device_seconds(self) -> float:
        """Return how long the last `infer` took on the GPU, without the copies."""
        return self._stream.seconds()

    def proof_of_use(self) -> Proof:
        """Return what runs, from the graph that the session saves."""
        return self._opened.proof_of_use()

    def _bind(self, hosts: Mapping[str, Any]) -> None:
        self._buffers = {name: self._stream.room(x.shape, x.dtype) for name, x in hosts.items()}
        self._binding = self._session.io_binding()
        for name, buffer in self._buffers.items():
            self._binding.bind_input(
                name=name,
                device_type="cuda",
                device_id=0,
                element_type=self._elements[name].type,
                shape=tuple(buffer.shape),
                buffer_ptr=buffer.data_ptr(),
            )
        for name in self._outputs:
            self._binding.bind_output(name, "cuda")

    def _run(self) -> None:
        try:
            self._session.run_with_iobinding(self._binding, self._run_options)
        except Exception as error:  # onnxruntime's errors have no common base
            raise unfit(self._path, self._buffers, self._opened.takes(), error) from error


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
