from __future__ import annotations

import pytest
import torch

from kdeploy.errors import ModelError
from kdeploy.kernels.fastest import CALLS_A_ROUND, Fastest, device_seconds
from tests.tiny import fake_cuda


def clock_of(times):
    """Return a clock with known answers, and the list of how often it was asked."""
    asked = []

    def clock(calls):
        asked.append(set(calls))
        for call in calls.values():
            call()
        return times

    return clock, asked


def test_the_fastest_kernel_runs_and_is_chosen_once_a_shape():
    clock, asked = clock_of({"slow": 2e-3, "fast": 1e-3, "broken": "ValueError: no"})
    kernels = {"slow": lambda x: x, "fast": lambda x: x + 1, "broken": lambda x: x - 1}
    fastest = Fastest(kernels, clock)
    assert fastest(torch.zeros(2)).tolist() == [1, 1]
    fastest(torch.ones(2))
    assert len(asked) == 1
    fastest(torch.ones(3))
    assert len(asked) == 2
    assert fastest.name == "fast"
    assert fastest.why() == "fast 1 ms, slow 2 ms, broken failed: ValueError: no"


def test_layers_that_are_alike_share_what_was_found():
    clock, asked = clock_of({"slow": 2e-3, "fast": 1e-3})
    kernels, found = {"slow": lambda x: x, "fast": lambda x: x + 1}, {}
    one, other = (Fastest(kernels, clock, found) for _ in range(2))
    one(torch.zeros(2))
    assert other(torch.zeros(2)).tolist() == [1, 1]
    assert len(asked) == 1
    assert (other.name, other.why()) == (one.name, one.why())


def test_one_kernel_alone_is_not_measured():
    clock, asked = clock_of({})
    only = Fastest({"only": lambda x, skip: x}, clock)
    only(torch.zeros(1), None)
    assert (only.name, asked) == ("only", [])


def test_no_kernel_that_runs_is_an_error_that_says_why():
    clock, _ = clock_of({"a": "RuntimeError: odd shape", "b": "RuntimeError: old GPU"})
    with pytest.raises(ModelError, match=r"\[5\].*odd shape.*old GPU"):
        Fastest({"a": lambda x: x, "b": lambda x: x}, clock)(torch.zeros(5))


@pytest.fixture
def stream(monkeypatch):
    stream = fake_cuda.FakeStream()
    monkeypatch.setattr("kdeploy.kernels.fastest.CudaStream", lambda: stream)
    return stream


def test_a_time_is_that_of_one_call_and_what_fails_says_why(stream):
    def refuses():
        raise ValueError("this shape\n is odd")

    calls = []
    times = device_seconds({"a": lambda: calls.append(1), "b": refuses})
    assert times == {
        "a": fake_cuda.SECONDS / CALLS_A_ROUND,
        "b": "ValueError: this shape is odd",
    }
    assert len(calls) == 2 * CALLS_A_ROUND  # once to warm up, once captured


@pytest.mark.gpu
def test_on_a_gpu_more_work_takes_longer():
    small, large = (torch.randn(n, n, device="cuda") for n in (64, 4096))
    times = device_seconds({"small": lambda: small @ small, "large": lambda: large @ large})
    assert 0 < times["small"] < times["large"]
