"""PyTorch on an NVIDIA GPU: FP32, TF32, FP16 or BF16, on request as a CUDA graph.

The reference for everything else that runs on that GPU. cuDNN tries its algorithms on the first
batch of a shape and keeps the fastest. Sources: PyTorch's notes on CUDA semantics and its tutorial
on channels last, https://docs.pytorch.org.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from kdeploy.artifact import open_artifact
from kdeploy.errors import Unavailable
from kdeploy.preprocessing import Inputs
from kdeploy.runtimes.contract import Proof, runtime
from kdeploy.runtimes.nvidia_driver import without_gpu
from kdeploy.runtimes.sparse_weights import num_two_four

if TYPE_CHECKING:
    from kdeploy.kernels.cuda_calls import CudaCalls


@runtime(formats={"torch"}, device="cuda")
class TorchCuda:
    """A torch artefact's model on the GPU, in eval mode."""

    def __init__(
        self,
        *,
        threads: int | None = None,
        precision: Literal["fp32", "tf32", "fp16", "bf16"] = "fp32",
        cuda_graph: bool = False,
        channels_last: bool = False,
    ) -> None:
        """Import torch.

        Args:
            threads: Without effect: the work is on the GPU.
            precision: Numbers of the weights and of what is computed from them. fp32 means FP32
                to the last bit; tf32 rounds the factors of its products.
            cuda_graph: Replay the whole model as one graph: without it each operator is launched
                from Python, which small batches wait for.
            channels_last: Keep images with their channels innermost, as Tensor Cores want them.
        """
        import torch

        self._torch = torch
        self._precision, self._cuda_graph = precision, cuda_graph
        self._channels_last = channels_last
        self._model: Any = None
        self._calls: CudaCalls | None = None

    @staticmethod
    def unavailable() -> str | None:
        return without_gpu()

    def open(self, path: Path) -> None:
        from kdeploy.kernels import cuda_calls
        from kdeploy.payload import load_model

        artifact = open_artifact(path)
        if artifact.is_quantized:
            raise Unavailable(
                f"torch_cuda would emulate the INT8 of {path} in float",
                hint="`torch_int8` runs it on integers",
            )
        cuda_calls.set_tf32(self._precision == "tf32")
        self._torch.backends.cudnn.benchmark = True
        dtype = cuda_calls.DTYPES[self._precision]
        self._model = load_model(artifact).eval().to(cuda_calls.DEVICE, dtype)
        if self._channels_last:
            self._model.to(memory_format=self._torch.channels_last)
        forward = cuda_calls.converting(self._model, dtype, channels_last=self._channels_last)
        self._calls = cuda_calls.CudaCalls(forward, name=str(path), cuda_graph=self._cuda_graph)

    def infer(self, batch: Inputs) -> NDArray[np.float32]:
        assert self._calls is not None, "infer before open"
        return self._calls(batch)

    def device_seconds(self) -> float:
        assert self._calls is not None, "device_seconds before open"
        return self._calls.device_seconds()

    def proof_of_use(self) -> Proof:
        from kdeploy.kernels import cuda_calls

        layers = cuda_calls.weighted_layers(self._model)
        return Proof(
            provider=cuda_calls.device_name(),
            eligible=len(layers),
            sparse_eligible=num_two_four(cuda_calls.weights_of(layers.values())),
            settings={
                "precision": self._precision,
                "cuda_graph": self._cuda_graph,
                "channels_last": self._channels_last,
                "tf32": cuda_calls.tf32_state(),
            },
            layers=cuda_calls.layer_rows(self._model),
        )

    def close(self) -> None:
        self._model = self._calls = None
