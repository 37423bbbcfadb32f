"""PyTorch on the integer Tensor Cores of an NVIDIA GPU: INT8 without TensorRT.

Every convolution and linear layer of a quantized artefact multiplies int8 codes and sums in 32
bits; scale, bias, skip, ReLU and the next layer's rounding follow in the same kernel. Of a Triton
kernel in several tile sizes, cuBLASLt and, for 2:4 weights, cuSPARSELt each layer takes the
fastest. Grouped convolutions stay in floating point. Jacob et al., CVPR 2018, arXiv:1712.05877.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from kdeploy.errors import Unavailable
from kdeploy.runtimes.contract import Answer, Given, Proof, runtime
from kdeploy.runtimes.torch_gpu import TorchGpu
from kdeploy.store.artifact import open_artifact
from kdeploy.system.nvidia_driver import without_gpu
from kdeploy.tensor_info import TensorInfo


@runtime(formats={"torch"}, device="cuda", needs="int8")
class TorchInt8:
    """A quantized torch artefact on integers; its symmetric encoding is used, whatever its own."""

    def __init__(
        self,
        *,
        threads: int | None = None,
        precision: Literal["fp32", "tf32", "fp16", "bf16"] = "fp16",
        cuda_graph: bool = True,
    ) -> None:
        """Import torch.

        Args:
            threads: Without effect: the work is on the GPU.
            precision: Numbers of what is not computed on integers.
            cuda_graph: Replay the whole model as one graph: without it each kernel is launched
                from Python, which small batches wait for.
        """
        self._gpu = TorchGpu(precision=precision, cuda_graph=cuda_graph)

    @staticmethod
    def unavailable() -> str | None:
        return without_gpu()

    def open(self, path: Path) -> None:
        from kdeploy.kernels import fastest, int8_kernels
        from kdeploy.kernels.int8_graph import integer_graph
        from kdeploy.store.model_io import load_model

        quantized: Any = load_model(open_artifact(path))
        if not hasattr(quantized, "with_profile"):
            raise Unavailable(
                f"{path} has no codes of its activations: it is a float model, or one that is "
                "quantized as it runs",
                hint="`kdeploy compress int8_ptq` first; `torch_cuda` runs float models",
            )
        if quantized.profile != "tensorrt":
            quantized = quantized.with_profile("tensorrt")
        graph, self._kept = integer_graph(quantized.graph, real_type=self._gpu.dtype)
        self._gpu.place(graph)
        int8_kernels.choose_kernels(graph, fastest.device_seconds)
        self._gpu.start(path)

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return self._gpu.inputs

    def infer(self, given: Given) -> Answer:
        return self._gpu.infer(given)

    def device_seconds(self) -> float:
        return self._gpu.device_seconds()

    def proof_of_use(self) -> Proof:
        from kdeploy.kernels import int8_kernels

        rows = int8_kernels.layer_rows(self._gpu.model)
        eligible, sparse = int8_kernels.sparse_counts(self._gpu.model)
        return Proof(
            provider=self._gpu.provider(),
            eligible=len(rows) + len(self._kept),
            integer=len(rows),
            is_quantized=True,
            sparse_eligible=eligible,
            sparse=sparse,
            settings={**self._gpu.settings(), "triton": int8_kernels.has_triton()},
            layers=[*rows, *self._kept],
        )

    def close(self) -> None:
        self._gpu.close()
