"""ONNX Runtime with TensorRT 10 inside: it builds engines when a file is opened, and keeps them.

The wheels of onnxruntime-gpu are linked with TensorRT 10, so 11 does not serve. Here TensorRT is
told which precisions it may choose: INT8 where the file is quantized, float16 where `fp16` says so.
The engines are kept in the user's cache folder: the first `open` of a file takes minutes, later
ones do not. What runs inside an engine ONNX Runtime does not tell, so kernels are not proven here;
the runtime `tensorrt` proves them. Source:
https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from kdeploy.machine import allowed_cores
from kdeploy.onnx_graph.operators import is_quantized
from kdeploy.runtimes.contract import Answer, Given, Proof, opened, runtime
from kdeploy.runtimes.onnx_gpu_session import OnnxGpuSession
from kdeploy.runtimes.onnx_provider import gpu_options, without_provider
from kdeploy.system.user_cache import cache_folder
from kdeploy.tensor_info import TensorInfo
from kdeploy.tensorrt import api as tensorrt_api
from kdeploy.tensorrt.encoding import check_encoding

PROVIDER = "TensorrtExecutionProvider"
CUDA = "CUDAExecutionProvider"
LINKED_MAJOR = 10  # of TensorRT, by the builds of onnxruntime-gpu
WORKSPACE_BYTES = 4 * 2**30
BEST_BATCH = 8


@runtime(formats={"onnx"}, device="cuda")
class OnnxruntimeTensorrt:
    """An ONNX file in engines that ONNX Runtime has TensorRT build."""

    def __init__(
        self,
        *,
        threads: int | None = None,
        fp16: bool = False,
        sparse: bool = False,
        optimization_level: Annotated[int, Field(ge=0, le=5)] = 3,
        max_batch: Annotated[int, Field(ge=1)] = 64,
    ) -> None:
        """Import the libraries: TensorRT first, so that ONNX Runtime finds it.

        Args:
            threads: Threads on the processor's side; none: all cores that this process may use.
            fp16: TensorRT may compute float layers in float16.
            sparse: TensorRT may use kernels for 2:4 sparse weights.
            optimization_level: How long to search for kernels; 5 is longest.
            max_batch: The largest batch of one engine, where the file leaves it open; a larger
                one has an engine built while it waits.
        """
        import onnxruntime

        tensorrt_api.load(to_build=True)
        onnxruntime.preload_dlls()
        self._onnxruntime = onnxruntime
        self._threads = threads or allowed_cores()
        self._max_batch = max_batch
        self._settings: dict[str, Any] = {
            "trt_fp16_enable": fp16,
            "trt_sparsity_enable": sparse,
            "trt_builder_optimization_level": optimization_level,
            "trt_max_workspace_size": WORKSPACE_BYTES,
        }
        self._session: OnnxGpuSession | None = None

    @staticmethod
    def unavailable() -> str | None:
        reason = without_provider(PROVIDER) or tensorrt_api.unavailable(to_build=True)
        if reason is not None:
            return reason
        version = tensorrt_api.load(to_build=True).__version__
        if int(version.split(".")[0]) != LINKED_MAJOR:
            return (
                f"onnxruntime-gpu is linked with TensorRT {LINKED_MAJOR}, and {version} is "
                f"installed: pip install 'tensorrt<{LINKED_MAJOR + 1}', or use `tensorrt`"
            )
        return None

    def open(self, path: Path) -> None:
        folder = cache_folder("onnxruntime-tensorrt")
        folder.mkdir(parents=True, exist_ok=True)
        graph = _graph(path)
        check_encoding(path, graph)
        self._is_quantized = is_quantized(_operators(graph))
        settings = {
            **self._settings,
            **_profile(graph, self._max_batch),
            "trt_int8_enable": self._is_quantized,
            "trt_engine_cache_enable": True,
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": True,
            "trt_timing_cache_path": str(folder),
        }
        self._session = OnnxGpuSession(path, self._options, PROVIDER, settings, others=[CUDA])

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return opened(self._session).inputs

    def infer(self, given: Given) -> Answer:
        return opened(self._session).infer(given)

    def device_seconds(self) -> float:
        return opened(self._session).device_seconds()

    def proof_of_use(self) -> Proof:
        parts = opened(self._session).session.get_provider_graph_assignment_info()
        rows = [
            {"name": node.name, "kernel": part.ep_name, "why": node.op_type}
            for part in parts
            for node in part.get_nodes()
        ]
        names = [row["kernel"] for row in rows]
        return Proof(
            provider=PROVIDER,
            is_quantized=self._is_quantized,
            elsewhere=sum(name != PROVIDER for name in names),
            operators={name: names.count(name) for name in sorted(set(names))},
            settings=self._settings,
            layers=rows,
        )

    def close(self) -> None:
        self._session = None

    def _options(self) -> Any:
        options = gpu_options(self._threads)
        # Its pass over Q/DQ pairs makes integer biases, which TensorRT does not read.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        return options


def _graph(path: Path) -> Any:
    """Return the graph of a file, an empty one of what is not ONNX: opening says what is wrong."""
    import onnx

    try:
        return onnx.load(path, load_external_data=False).graph
    except Exception:  # protobuf's errors have no public base
        return onnx.GraphProto()


def _operators(graph: Any) -> dict[str, int]:
    names = [node.op_type for node in graph.node]
    return {name: names.count(name) for name in set(names)}


def _profile(graph: Any, max_batch: int) -> dict[str, str]:
    """Return one range of batches for the engine, nothing where more than the batch is open."""
    stored = {tensor.name for tensor in graph.initializer}
    shapes = {i.name: i.type.tensor_type.shape.dim for i in graph.input if i.name not in stored}
    is_open = {name: [not d.dim_value for d in dims] for name, dims in shapes.items()}
    if not is_open or not all(o and o[0] and not any(o[1:]) for o in is_open.values()):
        return {}
    best = min(BEST_BATCH, max_batch)
    return {
        f"trt_profile_{which}_shapes": ",".join(
            f"{name}:" + "x".join(str(n) for n in (batch, *(d.dim_value for d in dims[1:])))
            for name, dims in shapes.items()
        )
        for which, batch in (("min", 1), ("opt", best), ("max", max_batch))
    }
