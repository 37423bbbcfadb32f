"""What kdeploy asks of `torch.cuda`, on the processor: streams, events, graphs, and memory."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import torch

STREAM = 77
MILLISECONDS = 2.5


class Event:
    def __init__(self, *, enable_timing):
        assert enable_timing
        self.is_recorded = False

    def record(self, stream=None):
        self.is_recorded = True

    def synchronize(self):
        assert self.is_recorded

    def elapsed_time(self, end):
        assert self.is_recorded
        assert end.is_recorded
        return MILLISECONDS


class CUDAGraph:
    """Replays the launches that were captured."""

    def __init__(self):
        self.launches = []

    def replay(self):
        for launch in self.launches:
            launch()


def install(monkeypatch, *, capability=(9, 0), name="NVIDIA H200"):
    """Put the fakes in the place of torch's; return where launches are captured: None, a list."""
    capture = SimpleNamespace(launches=None)
    empty = torch.empty

    def on_the_processor(*size, device=None, **rest):
        assert device == "cuda"
        return empty(*size, **rest)

    @contextlib.contextmanager
    def graph(recorded, stream=None):
        capture.launches = recorded.launches
        yield
        capture.launches = None

    stream = SimpleNamespace(cuda_stream=STREAM, synchronize=lambda: None)
    fakes = {
        "is_available": lambda: True,
        "get_device_capability": lambda: capability,
        "get_device_name": lambda: name,
        "Stream": lambda: stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "Event": Event,
        "CUDAGraph": CUDAGraph,
        "graph": graph,
    }
    for key, value in fakes.items():
        monkeypatch.setattr(torch.cuda, key, value)
    monkeypatch.setattr(torch, "empty", on_the_processor)
    return capture
