"""A CUDA stream of its own: memory on its GPU, events around what is timed, launches as a graph.

All that kdeploy times or captures on an NVIDIA GPU goes through here, by means of torch. Source:
https://docs.pytorch.org/docs/stable/notes/cuda.html, "CUDA streams" and "CUDA Graphs".
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any


class CudaStream:
    """A queue of work on the GPU, behind what the current stream was given before."""

    def __init__(self) -> None:
        import torch

        self._torch: Any = torch
        self._stream = self._torch.cuda.Stream()
        # Weights may still be on their way: streams do not wait for each other by themselves.
        self._stream.wait_stream(self._torch.cuda.current_stream())
        self._begin = self._torch.cuda.Event(enable_timing=True)
        self._end = self._torch.cuda.Event(enable_timing=True)

    @property
    def handle(self) -> int:
        """Return the address by which other libraries know the stream."""
        return int(self._stream.cuda_stream)

    def room(self, size: Sequence[int], dtype: Any) -> Any:
        """Return a tensor on the GPU whose values are not set."""
        with self.used():  # torch gives memory of this stream back to this stream only
            return self._torch.empty(tuple(size), dtype=dtype, device="cuda")

    def used(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which torch works on this stream."""
        context: contextlib.AbstractContextManager[Any] = self._torch.cuda.stream(self._stream)
        return context

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Set the events around the work that is given to the stream; only while it is used.

        Where the GPU has nothing else to do, the first launch counts too: some microseconds.
        """
        self._begin.record(self._stream)
        yield
        self._end.record(self._stream)

    def seconds(self) -> float:
        """Return how long what was last timed took on the GPU."""
        self._end.synchronize()
        return float(self._begin.elapsed_time(self._end)) / 1000  # torch tells milliseconds

    def synchronize(self) -> None:
        """Wait until all that the stream was given is done."""
        self._stream.synchronize()

    def captured(self, launch: Callable[[], object]) -> Callable[[], None]:
        """Return what repeats the launches of `launch`, on the same memory: a CUDA graph.

        It is called twice: libraries prepare themselves in the first call, which cannot be
        captured. Replay it while the stream is used.
        """
        with self.used():
            launch()
        self.synchronize()
        graph = self._torch.cuda.CUDAGraph()
        with self._torch.cuda.graph(graph, stream=self._stream):
            launch()
        replay: Callable[[], None] = graph.replay
        return replay
