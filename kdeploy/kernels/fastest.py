"""Of several kernels for one layer the fastest, measured on the device with the layer's own input.

Which kernel wins depends on the shape: a sparse product may lose to a dense one, and the dense
kernel stays then. So it is measured for each new shape, on its first call, before anything is
timed from outside; the times are kept for the proof. Layers that are alike share what was found.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from kdeploy.errors import ModelError
from kdeploy.kernels.cuda_stream import CudaStream
from kdeploy.units import format_seconds

ROUNDS = 5  # in turns, so that a clock that changes meets all kernels
CALLS_A_ROUND = 10  # in one CUDA graph: the launch from Python is no part of the kernel
Kernel = Callable[..., Any]
Times = dict[str, float | str]
Clock = Callable[[Mapping[str, Callable[[], object]]], Times]
Found = dict[tuple[object, ...], tuple[str, Times]]
"""By the shapes of the tensors: which kernel is the fastest, and the times of all."""


class Fastest:
    """Calls the fastest of some kernels that compute the same."""

    def __init__(
        self, kernels: Mapping[str, Kernel], clock: Clock, found: Found | None = None
    ) -> None:
        """Take the kernels.

        Args:
            kernels: By name; all take the same tensors.
            clock: Returns the seconds of each, or why it cannot run.
            found: The times by shapes, shared with whoever has the same kernels for layers that
                are alike: it is read and added to.
        """
        self._kernels, self._clock = dict(kernels), clock
        self._found: Found = {} if found is None else found
        self.times: Times = {}
        """Of each kernel, at the shape that ran last."""
        self.name = "" if len(self._kernels) > 1 else next(iter(self._kernels))
        """Of the kernel that ran last; "" before the first call of several."""

    def __call__(self, *tensors: Any) -> Any:
        """Return what the fastest kernel for tensors of these shapes computes."""
        if len(self._kernels) > 1:
            shapes = tuple(None if t is None else t.shape for t in tensors)
            if shapes not in self._found:
                self._found[shapes] = self._measured(tensors)
            self.name, self.times = self._found[shapes]
        return self._kernels[self.name](*tensors)

    def why(self) -> str:
        """Return the times that decided, fastest first, and what failed."""
        times = {name: t for name, t in self.times.items() if not isinstance(t, str)}
        ordered = sorted(times.items(), key=lambda item: item[1])
        parts = [f"{name} {format_seconds(seconds)}" for name, seconds in ordered]
        parts += [f"{name} failed: {t}" for name, t in self.times.items() if isinstance(t, str)]
        return ", ".join(parts)

    def _measured(self, tensors: tuple[Any, ...]) -> tuple[str, Times]:
        """Return the name of the fastest, and the times of all."""
        calls = {
            name: lambda kernel=kernel: kernel(*tensors) for name, kernel in self._kernels.items()
        }
        self.times = self._clock(calls)
        seconds = {name: t for name, t in self.times.items() if not isinstance(t, str)}
        if not seconds:
            raise ModelError(
                f"no kernel runs for inputs of shapes "
                f"{', '.join(str(list(t.shape)) for t in tensors if t is not None)}: {self.why()}",
                hint="`torch_cuda` runs the float model",
            )
        return min(seconds, key=seconds.__getitem__), self.times


def device_seconds(calls: Mapping[str, Callable[[], object]]) -> Times:
    """Return the median seconds of each call on the GPU, in turns, or why it failed."""
    stream = CudaStream()
    captured = {name: _captured(call, stream) for name, call in calls.items()}
    graphs = {name: graph for name, graph in captured.items() if not isinstance(graph, str)}
    samples: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(ROUNDS):
        for name, replay in graphs.items():
            with stream.used(), stream.timed():
                replay()
            # Kernel by kernel within a round, so that none has a warmer GPU than the others.
            samples[name].append(stream.seconds() / CALLS_A_ROUND)
    return {
        name: graph if isinstance(graph, str) else statistics.median(samples[name])
        for name, graph in captured.items()
    }


def _captured(call: Callable[[], object], stream: CudaStream) -> Callable[[], None] | str:
    """Return some calls as one graph, or why the kernel does not take the shape."""

    def repeated() -> None:
        for _ in range(CALLS_A_ROUND):
            call()

    try:
        replay = stream.captured(repeated)
        with stream.used():
            replay()
        stream.synchronize()
    except Exception as error:  # each library has errors of its own for a shape it does not take
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return replay
