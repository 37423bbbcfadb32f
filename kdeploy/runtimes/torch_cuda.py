"""PyTorch on an NVIDIA GPU: FP32, TF32, FP16 or BF16, on request as a CUDA graph.

The reference for everything else that runs on that GPU. Source: PyTorch's notes on CUDA semantics,
https://docs.pytorch.org/docs/stable/notes/cuda.html.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from kdeploy.onnx_graph.sparse_weights import num_two_four
from kdeploy.runtimes.contract import Answer, Given, Proof, runtime
from kdeploy.runtimes.torch_gpu import TorchGpu
from kdeploy.system.nvidia_driver import without_gpu
from kdeploy.tensor_info import TensorInfo


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
        self._channels_last = channels_last
        self._gpu = TorchGpu(precision=precision, cuda_graph=cuda_graph)

    @staticmethod
    def unavailable() -> str | None:
        return without_gpu()

    def open(self, path: Path) -> None:
        self._gpu.load(path, "torch_cuda", channels_last=self._channels_last)
        self._gpu.start(path)

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return self._gpu.inputs

    def infer(self, given: Given) -> Answer:
        return self._gpu.infer(given)

    def device_seconds(self) -> float:
        return self._gpu.device_seconds()

    def proof_of_use(self) -> Proof:
        from kdeploy.kernels import cuda_calls

        layers = cuda_calls.weighted_layers(self._gpu.model)
        return Proof(
            provider=self._gpu.provider(),
            eligible=len(layers),
            sparse_eligible=num_two_four(cuda_calls.weights_of(layers.values())),
            settings={**self._gpu.settings(), "channels_last": self._channels_last},
            layers=cuda_calls.layer_rows(self._gpu.model),
        )

    def close(self) -> None:
        self._gpu.close()
