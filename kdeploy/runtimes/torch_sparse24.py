"""PyTorch with cuSPARSELt: 2:4 sparse weights on the sparse Tensor Cores of an NVIDIA GPU.

Each layer whose weights have the pattern is measured dense and sparse, with its own input, and
stays dense where sparse loses, which small layers do. Mishra et al., Accelerating Sparse Deep
Neural Networks, 2021, arXiv:2104.08378. INT8 artefacts with the pattern: `torch_int8`.
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

if TYPE_CHECKING:
    from kdeploy.kernels.cuda_calls import CudaCalls


@runtime(formats={"torch"}, device="cuda", needs="two_four")
class TorchSparse24:
    """A float torch artefact whose weights are 2:4 sparse, in FP16 or BF16."""

    def __init__(
        self,
        *,
        threads: int | None = None,
        precision: Literal["fp16", "bf16"] = "fp16",
        cuda_graph: bool = True,
    ) -> None:
        """Import torch.

        Args:
            threads: Without effect: the work is on the GPU.
            precision: Numbers of the weights and of what is computed from them.
            cuda_graph: Replay the whole model as one graph: without it each kernel is launched
                from Python, which small batches wait for.
        """
        import torch

        self._torch = torch
        self._precision, self._cuda_graph = precision, cuda_graph
        self._model: Any = None
        self._calls: CudaCalls | None = None

    @staticmethod
    def unavailable() -> str | None:
        reason = without_gpu()
        if reason is not None:
            return reason
        import torch

        if not torch.backends.cusparselt.is_available():
            return "this torch has no cuSPARSELt: install a CUDA build of 2.11 or later for Linux"
        return None

    def open(self, path: Path) -> None:
        from kdeploy.kernels import cuda_calls, fastest, sparse_layers
        from kdeploy.payload import load_model

        artifact = open_artifact(path)
        if artifact.is_quantized:
            raise Unavailable(
                f"torch_sparse24 would emulate the INT8 of {path} in float",
                hint="`torch_int8` runs it on integers, 2:4 weights in sparse kernels",
            )
        self._torch.backends.cudnn.benchmark = True
        dtype = cuda_calls.DTYPES[self._precision]
        self._model = load_model(artifact).eval().to(cuda_calls.DEVICE, dtype)
        self._model.to(memory_format=self._torch.channels_last)
        self._layers = len(cuda_calls.weighted_layers(self._model))
        self._kept = sparse_layers.with_sparse_layers(
            self._model, sparse_layers.CuSparseLtProduct, fastest.device_seconds
        )
        if len(self._kept) == self._layers:
            first = next(iter(self._kept.items()), ("", "it has no layers with weights"))
            raise Unavailable(
                f"no layer of {path} can run sparse (first: {': '.join(filter(None, first))})",
                hint="`kdeploy compress two_four` first; `torch_cuda` runs dense models",
            )
        forward = cuda_calls.converting(self._model, dtype, channels_last=True)
        self._calls = cuda_calls.CudaCalls(forward, name=str(path), cuda_graph=self._cuda_graph)

    def infer(self, batch: Inputs) -> NDArray[np.float32]:
        assert self._calls is not None, "infer before open"
        return self._calls(batch)

    def device_seconds(self) -> float:
        assert self._calls is not None, "device_seconds before open"
        return self._calls.device_seconds()

    def proof_of_use(self) -> Proof:
        from kdeploy.kernels import cuda_calls
        from kdeploy.kernels.sparse_layers import SPARSE, layer_rows, sparse_layers

        layers = sparse_layers(self._model)
        return Proof(
            provider=cuda_calls.device_name(),
            eligible=self._layers,
            sparse_eligible=len(layers),
            sparse=sum(layer.fastest.name == SPARSE for layer in layers.values()),
            settings={"precision": self._precision, "cuda_graph": self._cuda_graph},
            layers=layer_rows(self._model, self._kept),
        )

    def close(self) -> None:
        self._model = self._calls = None
