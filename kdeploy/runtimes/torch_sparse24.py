"""PyTorch with cuSPARSELt: 2:4 sparse weights on the sparse Tensor Cores of an NVIDIA GPU.

Each layer whose weights have the pattern is measured dense and sparse, with its own input, and
stays dense where sparse loses, which small layers do. Mishra et al., Accelerating Sparse Deep
Neural Networks, 2021, arXiv:2104.08378. INT8 artefacts with the pattern: `torch_int8`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from kdeploy.errors import Unavailable
from kdeploy.runtimes.contract import Answer, Given, Proof, runtime
from kdeploy.runtimes.torch_gpu import TorchGpu
from kdeploy.system.nvidia_driver import without_gpu
from kdeploy.tensor_info import TensorInfo


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
        self._gpu = TorchGpu(precision=precision, cuda_graph=cuda_graph)

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
        from kdeploy.kernels import fastest
        from kdeploy.kernels.cuda_calls import weighted_layers
        from kdeploy.kernels.sparse_layers import CuSparseLtProduct, with_sparse_layers

        self._gpu.load(path, "torch_sparse24", channels_last=True)
        model = self._gpu.model
        self._num_layers = len(weighted_layers(model))
        self._kept = with_sparse_layers(model, CuSparseLtProduct, fastest.device_seconds)
        if len(self._kept) == self._num_layers:
            first = next(iter(self._kept.items()), ("", "it has no layers with weights"))
            raise Unavailable(
                f"no layer of {path} can run sparse (first: {': '.join(filter(None, first))})",
                hint="`kdeploy compress two_four` first; `torch_cuda` runs dense models",
            )
        self._gpu.start(path)

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return self._gpu.inputs

    def infer(self, given: Given) -> Answer:
        return self._gpu.infer(given)

    def device_seconds(self) -> float:
        return self._gpu.device_seconds()

    def proof_of_use(self) -> Proof:
        from kdeploy.kernels.sparse_layers import SPARSE, layer_rows, sparse_layers

        layers = sparse_layers(self._gpu.model)
        return Proof(
            provider=self._gpu.provider(),
            eligible=self._num_layers,
            sparse_eligible=len(layers),
            sparse=sum(layer.fastest.name == SPARSE for layer in layers.values()),
            settings=self._gpu.settings(),
            layers=layer_rows(self._gpu.model, self._kept),
        )

    def close(self) -> None:
        self._gpu.close()
