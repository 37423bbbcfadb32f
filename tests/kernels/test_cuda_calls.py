"""How a captured graph is kept and made anew, with a stand-in for the stream."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.shared.dry_run import on_the_processor
from kdeploy.errors import ModelError, Unavailable
from kdeploy.kernels.cuda_calls import CudaCalls, converting, move_to_channels_last
from tests.tiny import fake_cuda
from tests.tiny.fake_cuda import FakeStream


class Stream(FakeStream):
    """Its replays compute again, on the memory that is there then."""

    def captured(self, launch):
        self.num_captures += 1
        launch()
        return launch


@pytest.fixture
def stream(monkeypatch):
    stream = Stream()
    with on_the_processor():
        monkeypatch.setattr("kdeploy.kernels.cuda_calls.CudaStream", lambda: stream)
        yield stream


def captured(forward):
    return CudaCalls(forward, name="a model", cuda_graph=True)


def test_one_shape_is_captured_once_and_reads_each_batch(stream):
    calls = captured(lambda x: x * 2)
    for value in (1, 2, 3):
        batch = np.full((4, 3), value, np.float32)
        np.testing.assert_array_equal(calls(batch), batch * 2)
    assert stream.num_captures == 1
    assert calls.device_seconds() == fake_cuda.SECONDS


def test_another_shape_or_type_is_captured_anew(stream):
    calls = captured(lambda x: x * 2)
    for batch in (np.ones((4, 3), np.float32), np.ones((2, 3), np.float32), np.ones((2, 3), int)):
        np.testing.assert_array_equal(calls(batch), batch * 2)
    assert stream.num_captures == 3


def test_a_batch_that_was_given_is_never_written_to(stream):
    calls = captured(lambda x: x)
    first = np.zeros((2, 3), np.float32)
    calls(first)
    calls(first + 1)
    assert not first.any()


def test_what_cannot_be_captured_names_the_option_that_helps_each_time(stream):
    def waits(x):
        if stream.num_captures:
            stream.num_captures = 0
            raise RuntimeError("operation not permitted when stream is capturing")
        return x

    calls = captured(waits)
    for _ in range(2):  # it is not run as it is in place of the graph
        with pytest.raises(Unavailable, match="not permitted") as caught:
            calls(np.ones((1, 2), np.float32))
        assert "cuda_graph=false" in caught.value.hint


def test_what_fails_before_the_capture_is_the_input_s_fault(stream):
    def refuses(x):
        raise RuntimeError("sizes do not match")

    with pytest.raises(ModelError, match=r"\[1, 2\]: sizes do not match"):
        captured(refuses)(np.ones((1, 2), np.float32))


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


def test_weights_of_every_kind_go_to_channels_last():
    model = torch.nn.Sequential(torch.nn.Conv3d(2, 3, 2), torch.nn.Conv2d(2, 3, 2))
    move_to_channels_last(model)
    assert model[1].weight.is_contiguous(memory_format=torch.channels_last)
