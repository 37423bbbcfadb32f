"""How a captured graph is kept and made anew, with a stand-in for CUDA's graphs."""

from __future__ import annotations

import contextlib
from unittest import mock

import numpy as np
import pytest
import torch

from benchmarks.shared.dry_run import on_the_processor
from kdeploy.errors import Unavailable
from kdeploy.kernels.cuda_calls import CudaCalls, converting


class Recorder:
    """A graph that repeats, on the same memory, what was called while it was recorded."""

    def __init__(self):
        self.num_captures = 0

    @contextlib.contextmanager
    def record(self, graph):
        self.num_captures += 1
        yield

    def replay(self):
        self.calls._output.copy_(self.forward(self.calls._input))


@pytest.fixture
def recorder():
    recorder = Recorder()
    parts = {
        "CUDAGraph": lambda: recorder,
        "graph": recorder.record,
        "Stream": mock.MagicMock,
        "current_stream": mock.MagicMock,
        "stream": lambda stream: contextlib.nullcontext(),
    }
    with on_the_processor(), contextlib.ExitStack() as stack:
        for name, part in parts.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, part))
        yield recorder


def captured(recorder, forward):
    recorder.forward = forward
    recorder.calls = CudaCalls(forward, name="a model", cuda_graph=True)
    return recorder.calls


def test_one_shape_is_captured_once_and_reads_each_batch(recorder):
    calls = captured(recorder, lambda x: x * 2)
    for value in (1, 2, 3):
        batch = np.full((4, 3), value, np.float32)
        np.testing.assert_array_equal(calls(batch), batch * 2)
    assert recorder.num_captures == 1
    assert calls.device_seconds() >= 0


def test_another_shape_or_type_is_captured_anew(recorder):
    calls = captured(recorder, lambda x: x * 2)
    for batch in (np.ones((4, 3), np.float32), np.ones((2, 3), np.float32), np.ones((2, 3), int)):
        np.testing.assert_array_equal(calls(batch), batch * 2)
    assert recorder.num_captures == 3


def test_what_cannot_be_captured_names_the_option_that_helps(recorder):
    def waits(x):
        if recorder.num_captures:
            raise RuntimeError("operation not permitted when stream is capturing")
        return x

    with pytest.raises(Unavailable, match="not permitted") as caught:
        captured(recorder, waits)(np.ones((1, 2), np.float32))
    assert "cuda_graph=false" in caught.value.hint


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_input_comes_as_the_model_wants_it_and_token_ids_as_they_are(channels_last):
    seen = []

    class Sees(torch.nn.Module):
        def forward(self, x):
            seen.append(x)
            return x

    call = converting(Sees(), torch.float16, channels_last=channels_last)
    call(torch.ones(2, 3, 4, 5))
    call(torch.ones(2, 7, dtype=torch.int64))
    assert [x.dtype for x in seen] == [torch.float16, torch.int64]
    assert seen[0].is_contiguous(memory_format=torch.channels_last) == channels_last
