"""A TensorRT engine, built here for the GPU that is here: TensorRT 10 or 11.

The engine has the types of the ONNX file: INT8 where the file quantizes, float32 or float16
elsewhere. Beside it stand `<name>.json`, with what it was built of, on and with, and
`<name>.layers`, the inspector's JSON. https://docs.nvidia.com/deeplearning/tensorrt/latest/
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from kdeploy import __version__
from kdeploy.errors import Unavailable
from kdeploy.export.contract import exporter
from kdeploy.onnx_graph.checks import content_sha256
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.system.temporary import temporary_folder
from kdeploy.tensorrt import api as tensorrt_api
from kdeploy.tensorrt.build import BuildSettings, Built, build
from kdeploy.tensorrt.profile import check_range
from kdeploy.tensorrt.progress import cancellable
from kdeploy.tensorrt.sidecar import Sidecar
from kdeploy.tensorrt.source import SourceFacts, facts_of, in_half
from kdeploy.tensorrt.timing_cache import read_timings, timing_cache_of, write_timings

USUAL_BEST_BATCH = 8  # the size that an engine is tuned for where none is named


@exporter(
    source={"onnx"},
    suffix=".engine",
    runtime="tensorrt",
    rounds_to_half="fp16",
    portable=False,
)
def tensorrt_from_onnx(
    model: OnnxModel,
    example: Tensor,
    path: Path,
    *,
    profile: Literal["tensorrt"] = "tensorrt",
    opset: Annotated[int, Field(ge=18, le=21)] = 19,
    fp16: bool = False,
    min_batch: Annotated[int, Field(ge=1)] = 1,
    best_batch: Annotated[int, Field(ge=1)] | None = None,
    max_batch: Annotated[int, Field(ge=1)] = 64,
    dimensions: Mapping[str, list[int]] | None = None,
    workspace_bytes: Annotated[int, Field(gt=0)] = 4294967296,
    optimization_level: Annotated[int, Field(ge=0, le=5)] = 3,
    sparse: bool = False,
    refit: bool = False,
    version_compatible: bool = False,
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = "none",
    timing_cache: bool = True,
) -> None:
    """Build the engine of an ONNX file and write it to `path`.

    Args:
        model: The file.
        example: Not needed: the file knows its shapes.
        path: The engine.
        profile: The encoding of a quantized model: TensorRT reads int8 with zero points of 0.
        opset: Of the ONNX file that is made of a torch model; 19 is the lowest in which scales can
            be float16.
        fp16: Float layers compute in float16 instead of float32; inputs and outputs stay.
        min_batch: The smallest batch that the engine takes.
        best_batch: The batch that its kernels are chosen for; none: the largest up to 8.
        max_batch: The largest batch that it takes.
        dimensions: Smallest, best and largest of each other dynamic dimension by its name in the
            ONNX file: `{height: [128, 224, 512]}`.
        workspace_bytes: The most GPU memory that a kernel may take while it computes.
        optimization_level: How long to search for kernels; 5 is longest.
        sparse: Allow kernels for 2:4 sparse weights; whether one is chosen, TensorRT decides.
        refit: Weights can be exchanged later, which rules out some kernels.
        version_compatible: Later versions of TensorRT, and its lean runtime, open the engine too.
        hardware_compatibility: Other GPUs open it too, more slowly: `ampere_plus` or
            `same_compute_capability`.
        timing_cache: Keep what is measured of kernels in the user's cache folder, for next time.

    Raises:
        Unavailable: no GPU, no driver or no TensorRT; nothing was built.
        ModelError: TensorRT cannot read or build the file.
    """
    del example, profile, opset  # the file has its shapes, its encoding and its opset
    parameters = {
        "fp16": fp16,
        "min_batch": min_batch,
        "best_batch": best_batch or max(min_batch, min(USUAL_BEST_BATCH, max_batch)),
        "max_batch": max_batch,
        "dimensions": dict(dimensions or {}),
        "workspace_bytes": workspace_bytes,
        "optimization_level": optimization_level,
        "sparse": sparse,
        "refit": refit,
        "version_compatible": version_compatible,
        "hardware_compatibility": hardware_compatibility,
    }
    settings = _settings(parameters)
    reason = tensorrt_api.unavailable(to_build=True)
    if reason is not None:
        raise Unavailable(f"no engine can be built here: {reason}", hint="kdeploy doctor")
    facts = facts_of(model.path)
    with temporary_folder("engine") as folder:
        file = in_half(model.path, folder) if fp16 else model.path
        built = _built(file, settings, keeps_timings=timing_cache)
    path.write_bytes(built.plan)
    path.with_suffix(".layers").write_text(built.layers)
    # Of the file as it was given, not of its half: that is what a reader has.
    _sidecar(built, facts, content_sha256(model.path), parameters).write(path)


def _settings(parameters: Mapping[str, Any]) -> BuildSettings:
    named = ("min_batch", "best_batch", "max_batch")
    batch = check_range("batch", tuple(parameters[name] for name in named))
    dimensions = {n: check_range(n, tuple(r)) for n, r in parameters["dimensions"].items()}
    rest = {k: v for k, v in parameters.items() if k not in (*named, "dimensions", "fp16")}
    return BuildSettings(batch=batch, dimensions=dimensions, **rest)


def _built(file: Path, settings: BuildSettings, *, keeps_timings: bool) -> Built:
    version = tensorrt_api.load(to_build=True).__version__
    cache = timing_cache_of(version, tensorrt_api.device())
    timings = read_timings(cache) if keeps_timings else b""
    built = cancellable(lambda cancelled: build(file, settings, timings, cancelled))
    if keeps_timings:
        write_timings(cache, built.timings)
    return built


def _sidecar(
    built: Built, facts: SourceFacts, onnx_sha256: str, parameters: Mapping[str, Any]
) -> Sidecar:
    here = tensorrt_api.device()
    return Sidecar(
        tensorrt=tensorrt_api.load(to_build=True).__version__,
        gpu=here.gpu,
        compute_capability=here.compute_capability,
        driver=here.driver,
        engine_bytes=len(built.plan),
        onnx_sha256=onnx_sha256,
        parameters=parameters,
        is_quantized=facts.is_quantized,
        sparse_eligible=facts.sparse_eligible,
        sparsity=built.sparsity,
        kdeploy=__version__,
    )
