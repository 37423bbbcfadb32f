"""An ONNX file built into an engine by TensorRT 10 or 11: one way for both.

The network is strongly typed: each tensor has the type that the file gives it, and the builder
chooses kernels, never precisions. That is all TensorRT 11 knows, and what 10 recommends.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdeploy.errors import ModelError
from kdeploy.tensorrt import api as tensorrt_api
from kdeploy.tensorrt.profile import Range, add_profile
from kdeploy.tensorrt.progress import monitor_of

if TYPE_CHECKING:
    import tensorrt


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSettings:
    """What the builder is told."""

    batch: Range
    dimensions: Mapping[str, Range]
    workspace_bytes: int
    optimization_level: int
    sparse: bool
    refit: bool
    version_compatible: bool
    hardware_compatibility: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """An engine, and what was learned by building it."""

    plan: bytes
    timings: bytes
    """The timing cache, with the old entries and the new."""
    layers: str
    """JSON, as the engine inspector prints it."""
    sparsity: tuple[str, ...]
    """What the builder said about sparse kernels."""


def build(file: Path, settings: BuildSettings, timings: bytes, cancelled: threading.Event) -> Built:
    """Return the engine of an ONNX file.

    Args:
        file: The ONNX file; weights beside it are found.
        settings: What the builder is told.
        timings: A timing cache, empty for none; one of another GPU or version is not used.
        cancelled: Once it is set, the build ends without an engine.

    Raises:
        ModelError: TensorRT cannot read the file or cannot build it.
    """
    trt = tensorrt_api.load(to_build=True)
    log = tensorrt_api.log_of(trt)
    log.clear()
    builder: tensorrt.Builder = trt.Builder(log)
    strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network: tensorrt.INetworkDefinition = builder.create_network(strongly_typed)
    parser: tensorrt.OnnxParser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(file)):
        raise _refused(file, parser, trt.__version__)
    config: tensorrt.IBuilderConfig = builder.create_builder_config()
    _configure(trt, config, settings)
    add_profile(builder, network, config, settings.batch, settings.dimensions)
    _use(config, timings)
    monitor = monitor_of(trt, cancelled)  # by a name: the configuration does not keep it alive
    config.progress_monitor = monitor
    plan: tensorrt.IHostMemory | None = builder.build_serialized_network(network, config)
    if plan is None:
        raise ModelError(
            f"TensorRT {trt.__version__} cannot build {file.name}: {log.reason()}",
            hint="more memory may help, `--workspace-bytes`; else look at the operator it names",
        )
    cache: tensorrt.ITimingCache = config.get_timing_cache()
    return Built(
        plan=bytes(plan),
        timings=bytes(cache.serialize()),
        layers=_layers(trt, bytes(plan), log),
        sparsity=tuple(log.sparsity),
    )


def _refused(file: Path, parser: tensorrt.OnnxParser, version: str) -> ModelError:
    errors = [str(parser.get_error(i)) for i in range(parser.num_errors)]
    listed = "\n".join(f"  {error}" for error in errors) or "  it gives no reason"
    return ModelError(
        f"TensorRT {version} cannot read {file.name}:\n{listed}",
        hint="replace the operators that it names, or export with another `--opset`; quantized "
        "files need zero points of 0 and float biases (`--profile tensorrt`)",
    )


def _configure(trt: Any, config: tensorrt.IBuilderConfig, settings: BuildSettings) -> None:
    compatibility = {
        "none": trt.HardwareCompatibilityLevel.NONE,
        "ampere_plus": trt.HardwareCompatibilityLevel.AMPERE_PLUS,
        "same_compute_capability": trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY,
    }
    flags = {
        trt.BuilderFlag.TF32: False,  # float32 is meant where the file says so
        trt.BuilderFlag.SPARSE_WEIGHTS: settings.sparse,
        trt.BuilderFlag.REFIT: settings.refit,
        trt.BuilderFlag.VERSION_COMPATIBLE: settings.version_compatible,
    }
    for flag, is_set in flags.items():
        if is_set:
            config.set_flag(flag)
        else:
            config.clear_flag(flag)  # TensorRT's own default is TF32
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    config.builder_optimization_level = settings.optimization_level
    config.hardware_compatibility_level = compatibility[settings.hardware_compatibility]
    # Without it the inspector has names of layers and nothing else.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED


def _use(config: tensorrt.IBuilderConfig, timings: bytes) -> None:
    """Give the builder the timings, or an empty cache where they are of no use."""
    for content in dict.fromkeys((timings, b"")):
        cache: tensorrt.ITimingCache | None = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return


def _layers(trt: Any, plan: bytes, log: Any) -> str:
    runtime: tensorrt.Runtime = trt.Runtime(log)
    runtime.engine_host_code_allowed = True  # it was built here, just now
    engine: tensorrt.ICudaEngine | None = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise ModelError(
            f"TensorRT {trt.__version__} cannot open the engine that it built: {log.reason()}",
            hint="free memory on the GPU and try again",
        )
    inspector: tensorrt.EngineInspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
