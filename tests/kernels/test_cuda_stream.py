from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch

from kdeploy.kernels.cuda_stream import CudaStream


class Event:
    def __init__(self, told, *, enable_timing):
        assert enable_timing
        self.told = told

    def record(self, stream):
        self.told.append("event")

    def synchronize(self):
        self.told.append("wait")

    def elapsed_time(self, end):
        return 2.5


@pytest.fixture
def told(monkeypatch):
    """Put stand-ins in the place of torch's; return the list of what they were asked."""
    asked = []

    @contextlib.contextmanager
    def graph(recorded, stream):
        asked.append("capture")
        yield
        asked.append("captured")

    stream = SimpleNamespace(
        cuda_stream=9,
        synchronize=lambda: asked.append("synchronize"),
        wait_stream=lambda other: asked.append(f"behind {other}"),
    )
    replay = SimpleNamespace(replay=lambda: asked.append("replay"))
    fakes = {
        "Stream": lambda: stream,
        "current_stream": lambda: "the current one",
        "stream": lambda stream: contextlib.nullcontext(),
        "Event": lambda **given: Event(asked, **given),
        "CUDAGraph": lambda: replay,
        "graph": graph,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return asked


def test_time_is_that_between_two_events_in_seconds(told):
    stream = CudaStream()
    with stream.used(), stream.timed():
        told.append("work")
    assert stream.seconds() == 0.0025
    assert told == ["behind the current one", "event", "work", "event", "wait"]
    assert stream.handle == 9


def test_launches_are_captured_after_a_first_call_that_has_ended(told):
    stream = CudaStream()
    told.clear()
    replay = stream.captured(lambda: told.append("launch"))
    replay()
    assert told == ["launch", "synchronize", "capture", "launch", "captured", "replay"]


@pytest.mark.gpu
def test_on_a_gpu_a_graph_repeats_what_it_captured():
    stream = CudaStream()
    x = stream.room((4,), torch.float32)
    x.zero_()
    torch.cuda.synchronize()
    replay = stream.captured(lambda: x.add_(1))
    with stream.used(), stream.timed():
        replay()
    assert stream.seconds() > 0
    assert x.tolist() == [2.0] * 4  # the first call and the replay: capturing runs nothing
