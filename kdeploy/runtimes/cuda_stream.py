"""A CUDA stream of its own, the memory on its GPU, and events around what is timed; by torch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any


class CudaStream:
    """What a runtime that is not torch's needs of torch."""

    def __init__(self) -> None:
        import torch

        self._torch: Any = torch
        self._stream = self._torch.cuda.Stream()
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
        """Set the events around the work that is given to the stream; only while it is used."""
        self._begin.record(self._stream)
        yield
        self._end.record(self._stream)

    def seconds(self) -> float:
        """Return how long what was last timed took on the GPU."""
        self._end.synchronize()
        return float(self._begin.elapsed_time(self._end)) / 1000  # torch tells milliseconds

    def captured(self, launch: Callable[[], None]) -> Callable[[], None]:
        """Return what repeats the launches of `launch`: a CUDA graph.

        It is called twice: libraries prepare themselves in the first call, which cannot be
        captured.
        """
        with self.used():
            launch()
        self._stream.synchronize()
        graph = self._torch.cuda.CUDAGraph()
        with self._torch.cuda.graph(graph, stream=self._stream):
            launch()
        replay: Callable[[], None] = graph.replay
        return replay
