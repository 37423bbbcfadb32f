"""Variants of one network on a GPU, measured in turns: what the suites for GPUs share."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.shared.gpu_models import DENSE, INT8, SPARSE, SPARSE_INT8
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.run import open_runtime

# Which artefact in which runtime.
VARIANTS = {
    "fp16": (DENSE, "torch_cuda:precision=fp16,channels_last=true"),
    "bf16": (DENSE, "torch_cuda:precision=bf16,channels_last=true"),
    "2:4 fp16": (SPARSE, "torch_sparse24:precision=fp16"),
    "2:4 bf16": (SPARSE, "torch_sparse24:precision=bf16"),
    "int8": (INT8, "torch_int8:precision=fp16"),
    "2:4 int8": (SPARSE_INT8, "torch_int8:precision=fp16"),
}
# In changing order, so that a clock that changes meets all variants.
ROUNDS, CALLS = 6, 15


def open_variants(folders: Mapping[str, Path], *, is_graph: bool) -> dict[str, Any]:
    """Return a runtime for each variant, as CUDA graphs unless it is a dry run."""
    graph = f"cuda_graph={str(is_graph).lower()}"
    return {
        label: open_runtime(f"{runtime},{graph}", folders[artefact])
        for label, (artefact, runtime) in VARIANTS.items()
    }


def in_turns(
    opened: Mapping[str, Any], batch: NDArray[np.float32], *, is_dry: bool = False
) -> dict[str, dict[str, Any]]:
    """Return both times of each variant, in seconds, and what its proof counts.

    Args:
        opened: Runtimes with a file.
        batch: What each is called with.
        is_dry: Call each a few times only: nothing is measured.
    """
    rounds, calls = (2, 2) if is_dry else (ROUNDS, CALLS)
    for runtime in opened.values():
        for _ in range(3):
            first(runtime.infer(batch))
    whole: dict[str, list[float]] = {label: [] for label in opened}
    device: dict[str, list[float]] = {label: [] for label in opened}
    labels = list(opened)
    for number in range(rounds):
        for label in labels if number % 2 == 0 else reversed(labels):
            for _ in range(calls):
                start = time.perf_counter()
                first(opened[label].infer(batch))
                whole[label].append(time.perf_counter() - start)
                device[label].append(opened[label].device_seconds())
    return {
        label: {
            "end_to_end_seconds": _spread(whole[label]),
            "device_seconds": _spread(device[label]),
            "proof": _counts(opened[label]),
        }
        for label in labels
    }


def milliseconds(spread: Mapping[str, float]) -> str:
    """Return a median and its spread for people."""
    p50, p5, p95 = (spread[key] * 1e3 for key in ("p50", "p5", "p95"))
    return f"{p50:.3f} ms ({p5:.3f} to {p95:.3f})"


def ran(proof: Mapping[str, int]) -> str:
    """Return for people how many layers ran on integers and sparse."""
    if not proof:
        return ""
    return (
        f"{proof['integer']} of {proof['eligible']} integer, "
        f"{proof['sparse']} of {proof['sparse_eligible']} sparse"
    )


def _spread(samples: list[float]) -> dict[str, float]:
    """Return the median, and the 5th and 95th percentile."""
    low, high = np.percentile(samples, [5, 95])
    return {"p50": statistics.median(samples), "p5": float(low), "p95": float(high)}


def _counts(runtime: Any) -> dict[str, int]:
    if not hasattr(runtime, "proof_of_use"):
        return {}
    proof = runtime.proof_of_use()
    names = ("eligible", "integer", "sparse_eligible", "sparse")
    return {name: getattr(proof, name) for name in names}
