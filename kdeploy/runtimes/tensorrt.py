"""TensorRT: an engine, enqueued on a stream of its own, with its inputs and outputs on the GPU.

`infer` takes arrays from and gives its answer to the processor: end to end. What the GPU needed
for the engine alone, without the copies, is told by `device_seconds`.

An engine that was built `version_compatible` carries a runtime of its own, which is a program: it
is allowed to run only if the file beside the engine says that the engine is of that kind. Open
engines of people you trust, as with any program. Source: NVIDIA's Python API,
https://docs.nvidia.com/deeplearning/tensorrt/latest/.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdeploy.errors import ModelError
from kdeploy.kernels.cuda_stream import CudaStream
from kdeploy.runtimes.contract import Answer, Given, Proof, by_name, runtime
from kdeploy.runtimes.engine_layers import proof_of
from kdeploy.tensor_info import TensorInfo
from kdeploy.tensorrt import api as tensorrt_api
from kdeploy.tensorrt.sidecar import Sidecar

if TYPE_CHECKING:
    import tensorrt


@runtime(
    formats={"engine"},
    device="cuda",
    suffixes={".engine": "engine", ".plan": "engine"},
    libraries=("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-dispatch", "tensorrt-lean"),
)
class Tensorrt:
    """An engine that was built for this GPU and this version of TensorRT."""

    _engine: tensorrt.ICudaEngine
    _context: tensorrt.IExecutionContext

    def __init__(self, *, threads: int | None = None, cuda_graph: bool = False) -> None:
        """Import TensorRT, full, dispatch or lean, and torch, which owns the memory on the GPU.

        Args:
            threads: Without effect: the work is on the GPU.
            cuda_graph: Record the engine's launches once for each batch size and replay them:
                less work for the processor, which small networks wait for.
        """
        import torch

        self._torch: Any = torch
        self._trt: Any = tensorrt_api.load()
        self._cuda_graph = cuda_graph
        self._sidecar: Sidecar | None = None
        self._buffers: dict[str, Any] = {}
        self._replay: Callable[[], None] | None = None

    @staticmethod
    def unavailable() -> str | None:
        return tensorrt_api.unavailable()

    def open(self, path: Path) -> None:
        version = self._trt.__version__
        self._path = path
        self._sidecar = Sidecar.beside(path)
        if self._sidecar is not None:
            self._sidecar.check(path, version=version, device=tensorrt_api.device())
        self._engine = self._deserialized(path)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise self._failure(f"TensorRT {version} has no room to run the engine {path}")
        self._inputs, self._outputs = self._names()
        # On the default stream TensorRT synchronises once more a call.
        self._stream = CudaStream()

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        shapes = {name: self._engine.get_tensor_shape(name) for name in self._inputs}
        return tuple(
            TensorInfo(
                name=name,
                shape=tuple(size if size >= 0 else "?" for size in shape),  # -1 is an open size
                dtype=str(self._dtype(name)).removeprefix("torch."),
            )
            for name, shape in shapes.items()
        )

    def infer(self, given: Given) -> Answer:
        feeds = by_name(given, self._inputs, self._path)
        hosts = {name: self._torch.from_numpy(array) for name, array in feeds.items()}
        known = self._buffers
        if any(name not in known or known[name].shape != x.shape for name, x in hosts.items()):
            self._bind(hosts)
        with self._stream.used():
            for name, host in hosts.items():
                self._buffers[name].copy_(host)
            with self._stream.timed():
                (self._replay or self._enqueue)()
            return {name: self._read(name) for name in self._outputs}

    def device_seconds(self) -> float:
        return self._stream.seconds()

    def proof_of_use(self) -> Proof:
        trt, sidecar = self._trt, self._sidecar
        provider = f"{trt.__name__} {trt.__version__}"
        settings = {"cuda_graph": self._cuda_graph}
        is_quantized = sidecar is not None and sidecar.is_quantized
        sparse_eligible = sidecar.sparse_eligible if sidecar is not None else 0
        inspected = "{}"
        if hasattr(trt, "EngineInspector"):  # the dispatch and lean runtimes have none
            inspector: tensorrt.EngineInspector = self._engine.create_engine_inspector()
            inspector.execution_context = self._context
            inspected = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        return proof_of(
            inspected,
            provider=provider,
            settings=settings,
            is_quantized=is_quantized,
            sparse_eligible=sparse_eligible,
        )

    def close(self) -> None:
        self._replay = None
        self._buffers = {}
        self._context = self._engine = None

    def _deserialized(self, path: Path) -> Any:
        trt = self._trt
        log = tensorrt_api.log_of(trt)
        log.clear()
        self._runtime: tensorrt.Runtime = trt.Runtime(log)
        if self._sidecar is not None and self._sidecar.is_version_compatible:
            self._runtime.engine_host_code_allowed = True
        engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise ModelError(
                f"TensorRT {trt.__version__} cannot open the engine {path}: {log.reason()}",
                hint="an engine fits one GPU and one version: build it again from the ONNX file",
            )
        return engine

    def _names(self) -> tuple[list[str], list[str]]:
        """Return the names of the inputs and of the outputs."""
        engine, is_input = self._engine, self._trt.TensorIOMode.INPUT
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = [n for n in names if engine.get_tensor_mode(n) == is_input]
        return inputs, [n for n in names if n not in inputs]

    def _read(self, name: str) -> Any:
        """Return an output on the processor; numbers of half precision as float32."""
        tensor = self._buffers[name]
        return (tensor.float() if tensor.dtype.is_floating_point else tensor).cpu().numpy()

    def _bind(self, hosts: Mapping[str, Any]) -> None:
        """Give TensorRT memory of the right size for these arrays, as tensors."""
        context = self._context
        self._replay, self._buffers = None, {}
        for name, host in hosts.items():
            self._check_numbers(name, host)
        if not self._takes({name: tuple(host.shape) for name, host in hosts.items()}):
            shapes = [list(host.shape) for host in hosts.values()]
            told = f"an input of shape {shapes[0]}" if len(shapes) == 1 else f"shapes {shapes}"
            allowed = "; ".join(self._allowed(name) for name in self._inputs)
            raise ModelError(
                f"{self._path} cannot run {told}; it takes {allowed}",
                hint="build the engine with a profile that covers it, e.g. `--max-batch 64`",
            )
        for name in (*self._inputs, *self._outputs):
            buffer = self._room_for(name)
            self._buffers[name] = buffer
            # Addresses stay until shapes change, which is what a CUDA graph needs.
            context.set_tensor_address(name, buffer.data_ptr())
        if self._cuda_graph:
            self._replay = self._captured()

    def _room_for(self, name: str) -> Any:
        size = tuple(self._context.get_tensor_shape(name))
        if any(length < 0 for length in size):
            raise ModelError(
                f"how large `{name}` of {self._path} is depends on its values: {list(size)}",
                hint="export the model without what selects rows, e.g. the suppression of boxes",
            )
        return self._stream.room(size, self._dtype(name))

    def _check_numbers(self, name: str, host: Any) -> None:
        """Refuse a fraction where the engine takes integers, and the other way round."""
        expected = self._dtype(name)
        if expected.is_floating_point != host.dtype.is_floating_point:
            raise ModelError(
                f"{self._path} takes {expected} as `{name}`, and the data are {host.dtype}",
                hint="name the data that the model was made for",
            )

    def _takes(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Tell TensorRT the shapes; return whether they fit and decide all others."""
        context = self._context
        try:
            fit = all(context.set_input_shape(name, shape) for name, shape in shapes.items())
            # It returns the names of inputs that are still missing.
            return fit and not context.infer_shapes()
        except RuntimeError:  # two inputs of an operator that do not fit each other
            return False

    def _allowed(self, name: str) -> str:
        """Return which shapes the engine takes."""
        engine = self._engine
        fixed = list(engine.get_tensor_shape(name))
        if all(size >= 0 for size in fixed):
            return str(fixed)
        smallest, _, largest = (list(s) for s in engine.get_tensor_profile_shape(name, 0))
        return f"{smallest} to {largest}"

    def _dtype(self, name: str) -> Any:
        trt, torch = self._trt, self._torch
        return {
            trt.DataType.FLOAT: torch.float32,
            trt.DataType.HALF: torch.float16,
            trt.DataType.BF16: torch.bfloat16,
            trt.DataType.INT8: torch.int8,
            trt.DataType.UINT8: torch.uint8,
            trt.DataType.INT32: torch.int32,
            trt.DataType.INT64: torch.int64,
            trt.DataType.BOOL: torch.bool,
        }[self._engine.get_tensor_dtype(name)]

    def _captured(self) -> Callable[[], None]:
        """Return the launches of one batch as a CUDA graph."""
        try:
            return self._stream.captured(self._enqueue)
        except RuntimeError as error:
            raise ModelError(
                f"the launches of {self._path} cannot be recorded: {error}",
                hint="open it with `tensorrt:cuda_graph=false`",
            ) from error

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            raise self._failure(f"TensorRT could not run {self._path}")

    def _failure(self, what: str) -> ModelError:
        reason = tensorrt_api.log_of(self._trt).reason()
        return ModelError(f"{what}: {reason}", hint="free memory on the GPU, or lower the batch")
