"""A torch model on an NVIDIA GPU, from its file to its last call: what the runtimes there share.

cuDNN tries its algorithms on the first batch of a shape and keeps the fastest. Sources: PyTorch's
notes on CUDA semantics and its tutorial on channels last, https://docs.pytorch.org.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdeploy.errors import ModelError
from kdeploy.preprocessing import Inputs
from kdeploy.runtimes.contract import Answer, Given, opened
from kdeploy.runtimes.torch_artifact import INPUT, open_float
from kdeploy.tensor_info import TensorInfo

if TYPE_CHECKING:
    from kdeploy.kernels.cuda_calls import CudaCalls


OUTPUT = "output"


def first_of(given: Given) -> Inputs:
    """Return the one array.

    Raises:
        ModelError: there are several.
    """
    arrays = [given] if isinstance(given, np.ndarray) else list(given.values())
    if len(arrays) != 1:
        raise ModelError(
            f"torch's kernels on the GPU are called with one array here, found {len(arrays)}",
            hint="export the model as `onnx`, and measure it in onnxruntime_cuda or tensorrt",
        )
    return arrays[0]


class TorchGpu:
    """Holds the one model that a runtime has open; its kernels are the runtime's own affair."""

    def __init__(self, *, precision: str, cuda_graph: bool) -> None:
        """Import torch, so that opening is timed without it.

        Args:
            precision: Numbers of what is computed in floating point: fp32, tf32, fp16 or bf16.
            cuda_graph: Replay the whole model as one graph.
        """
        import torch

        self._torch: Any = torch
        self._precision, self._cuda_graph = precision, cuda_graph
        self.model: Any = None
        self._forward: Callable[[Any], Any] | None = None
        self._calls: CudaCalls | None = None

    @property
    def dtype(self) -> Any:
        """The type of what is computed in floating point."""
        from kdeploy.kernels.cuda_calls import DTYPES

        return DTYPES[self._precision]

    def load(self, path: Path, runtime: str, *, channels_last: bool) -> None:
        """Put a float artefact's model on the GPU, in the numbers and the layout asked for."""
        from kdeploy.kernels import cuda_calls

        model, _ = open_float(path, runtime, hint="`torch_int8` computes it on integers")
        self.place(model.to(self.dtype))
        if channels_last:
            cuda_calls.move_to_channels_last(self.model)
        self._forward = cuda_calls.converting(self.model, self.dtype, channels_last=channels_last)

    def place(self, model: Any) -> None:
        """Put a model on the GPU that takes its input as it comes."""
        from kdeploy.kernels.cuda_calls import DEVICE

        self.model = self._forward = model.to(DEVICE)

    def start(self, path: Path) -> None:
        """Make what was loaded or placed ready to be called; errors name the path."""
        from kdeploy.kernels import cuda_calls

        assert self._forward is not None, "start before load"
        cuda_calls.set_tf32(self._precision == "tf32")
        self._torch.backends.cudnn.benchmark = True
        self._calls = cuda_calls.CudaCalls(
            self._forward, name=str(path), cuda_graph=self._cuda_graph
        )

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The one tensor that a model on the GPU takes here."""
        return (TensorInfo(name=INPUT, shape=("batch", "..."), dtype="float32"),)

    def infer(self, given: Given) -> Answer:
        """Return the answer to a batch."""
        return {OUTPUT: opened(self._calls)(first_of(given))}

    def device_seconds(self) -> float:
        """Return how long the last `infer` computed on the GPU, without the copies."""
        return opened(self._calls).device_seconds()

    def provider(self) -> str:
        """Return the name of torch and of the GPU."""
        from kdeploy.kernels.cuda_calls import device_name

        return device_name()

    def settings(self) -> dict[str, Any]:
        """Return what the proof of use tells of each of them."""
        from kdeploy.kernels.cuda_calls import tf32_state

        return {
            "precision": self._precision,
            "cuda_graph": self._cuda_graph,
            "tf32": tf32_state(),
        }

    def close(self) -> None:
        """Free the model, and the graph with its memory."""
        self.model = self._forward = self._calls = None
