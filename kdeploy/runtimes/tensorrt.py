"""TensorRT: an engine, deserialised and enqueued on its own stream.

Works with TensorRT 10.3 and later and 11: names of tensors instead of bindings, `infer_shapes`,
`execute_async_v3`. Times include the copies to and from the GPU. Source: NVIDIA's Python API,
https://docs.nvidia.com/deeplearning/tensorrt/latest/.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.errors import ModelError
from kdeploy.preprocessing import Inputs
from kdeploy.runtimes.contract import Proof, runtime

# Parts of the layer types that the engine inspector prints, in lower case.
ELIGIBLE_LAYERS = ("conv", "gemm", "matmul", "matrixmultiply", "fullyconnected")


@runtime(formats={"engine"}, device="cuda")
class Tensorrt:
    """An engine that was built for this GPU and this version of TensorRT."""

    def __init__(self, *, threads: int | None = None) -> None:
        """Import TensorRT and torch, which owns the memory on the GPU.

        Args:
            threads: Without effect: the work is on the GPU.
        """
        import tensorrt
        import torch

        self._tensorrt: Any = tensorrt
        self._torch: Any = torch
        self._engine: Any = None
        self._context: Any = None
        self._stream: Any = None

    @staticmethod
    def unavailable() -> str | None:
        # First of all: without a driver TensorRT's objects crash the process.
        try:
            ctypes.CDLL("libcuda.so.1")
        except OSError:
            return (
                "there is no NVIDIA driver here (libcuda.so.1): install it, or use another runtime"
            )
        if importlib.util.find_spec("tensorrt") is None:
            return "the library `tensorrt` is not installed: pip install 'kdeploy[tensorrt]'"
        import torch

        if not torch.cuda.is_available():
            return "this torch sees no GPU: install its CUDA build, see https://pytorch.org"
        return None

    def open(self, path: Path) -> None:
        logger = self._tensorrt.Logger(self._tensorrt.Logger.ERROR)
        self._runtime = self._tensorrt.Runtime(logger)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise ModelError(
                f"TensorRT {self._tensorrt.__version__} cannot open the engine {path}",
                hint="engines fit one GPU and one version: build it again from the ONNX file",
            )
        self._context = self._engine.create_execution_context()
        # On the default stream TensorRT synchronises once more a call.
        self._stream = self._torch.cuda.Stream()
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        is_input = self._tensorrt.TensorIOMode.INPUT
        inputs = [n for n in names if self._engine.get_tensor_mode(n) == is_input]
        if len(inputs) != 1:
            raise ModelError(
                f"{path} takes the inputs {inputs}; one tensor is supported",
                hint="export the model with a single float32 input",
            )
        self._path, self._input = path, inputs[0]
        self._outputs = [n for n in names if n != self._input]
        self._buffers: dict[str, Any] = {}

    def infer(self, batch: Inputs) -> NDArray[np.float32]:
        torch = self._torch
        host = torch.from_numpy(batch)
        known = self._buffers.get(self._input)
        if known is None or known.shape != host.shape:
            self._bind(host)
        with torch.cuda.stream(self._stream):
            self._buffers[self._input].copy_(host)
            is_enqueued = self._context.execute_async_v3(self._stream.cuda_stream)
            output = self._buffers[self._outputs[0]].float().cpu()
        if not is_enqueued:
            raise ModelError(f"TensorRT could not run {self._path}", hint="see its log above")
        result: NDArray[np.float32] = output.numpy()
        return result

    def proof_of_use(self) -> Proof:
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context
        as_json = self._tensorrt.LayerInformationFormat.JSON
        layers = json.loads(inspector.get_engine_information(as_json)).get("Layers", [])
        # An engine built without detailed verbosity gives names only: then nothing is proven.
        described = [layer for layer in layers if isinstance(layer, dict)]
        eligible = [layer for layer in described if _is_eligible(layer)]
        return Proof(
            provider=f"TensorRT {self._tensorrt.__version__}",
            eligible=len(eligible),
            integer=sum("int8" in json.dumps(la.get("Inputs", "")).lower() for la in eligible),
            is_quantized="int8" in json.dumps(described).lower(),
        )

    def close(self) -> None:
        self._buffers = {}
        self._context = self._engine = None

    def _bind(self, host: Any) -> None:
        """Give TensorRT memory of the right size for this batch, a tensor."""
        torch, shape = self._torch, tuple(host.shape)
        if not self._context.set_input_shape(self._input, shape) or self._context.infer_shapes():
            allowed = self._engine.get_tensor_shape(self._input)
            raise ModelError(
                f"{self._path} cannot run an input of shape {list(shape)}; it takes {allowed}",
                hint="build the engine with a profile that covers this batch size",
            )
        self._buffers = {self._input: torch.empty(shape, dtype=host.dtype, device="cuda")}
        for name in self._outputs:
            numpy_type = self._tensorrt.nptype(self._engine.get_tensor_dtype(name))
            dtype = torch.from_numpy(np.empty(0, numpy_type)).dtype
            size = tuple(self._context.get_tensor_shape(name))
            self._buffers[name] = torch.empty(size, dtype=dtype, device="cuda")
        for name, buffer in self._buffers.items():
            self._context.set_tensor_address(name, buffer.data_ptr())


def _is_eligible(layer: dict[str, Any]) -> bool:
    return any(part in str(layer.get("LayerType", "")).lower() for part in ELIGIBLE_LAYERS)
