"""Let the runtimes for GPUs compute on the processor, so that their code runs where no GPU is.

Kernels are replaced by exact references, clocks by made-up times: whatever comes out is checked for
its numbers and its form, and is no measurement. Never used where anything is measured.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

from kdeploy.kernels import cuda_calls, fastest, int8_kernels, sparse_layers
from kdeploy.kernels.int8_layers import Reference


class Stream:
    """A stream that computes at once, with the methods of `CudaStream`; it captures nothing."""

    def used(self) -> AbstractContextManager[None]:
        """Return a context that changes nothing."""
        return nullcontext()

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Take the processor's time."""
        start = time.perf_counter()
        yield
        self._seconds = time.perf_counter() - start

    def seconds(self) -> float:
        """Return what was last timed."""
        return self._seconds


@contextmanager
def on_the_processor() -> Iterator[None]:
    """Replace the GPU for a while; CUDA graphs are not replaced."""
    names = {
        (cuda_calls, "DEVICE"): "cpu",
        (cuda_calls, "CudaStream"): Stream,
        (cuda_calls, "device_name"): lambda: "dry run on the processor",
        (fastest, "device_seconds"): _made_up,
        (int8_kernels, "IntMm"): Reference,
        (int8_kernels, "has_triton"): lambda: False,
        (int8_kernels, "has_cusparselt"): lambda: True,
        (sparse_layers, "CuSparseLtProduct"): _exact,
    }
    with ExitStack() as stack:
        for (module, name), replacement in names.items():
            stack.enter_context(mock.patch.object(module, name, replacement))
        for kind in (
            "torch_cuda.TorchCuda",
            "torch_int8.TorchInt8",
            "torch_sparse24.TorchSparse24",
        ):
            target = f"kdeploy.runtimes.{kind}.unavailable"
            stack.enter_context(mock.patch(target, staticmethod(lambda: None)))
        yield


def _made_up(calls: Any) -> dict[str, float | str]:
    """Call each kernel once; later ones are faster, so that the sparse one is chosen."""
    for call in calls.values():
        call()
    return {name: 1e-3 / (index + 1) for index, name in enumerate(calls)}


def _exact(rows: Any, out_type: Any = None) -> Any:
    """Return a product as cuSPARSELt's, of integers in 32 bits."""
    product = sparse_layers.ReferenceProduct(rows.int() if out_type else rows)
    if out_type is None:
        return product
    return lambda read, bias: product(read.int(), bias)
