from __future__ import annotations

import pytest
import torch

from kdeploy.errors import ModelError
from kdeploy.kernels.fastest import Fastest


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


def test_one_kernel_alone_is_not_measured():
    clock, asked = clock_of({})
    only = Fastest({"only": lambda x, skip: x}, clock)
    only(torch.zeros(1), None)
    assert (only.name, asked) == ("only", [])


def test_no_kernel_that_runs_is_an_error_that_says_why():
    clock, _ = clock_of({"a": "RuntimeError: odd shape", "b": "RuntimeError: old GPU"})
    with pytest.raises(ModelError, match=r"\[5\].*odd shape.*old GPU"):
        Fastest({"a": lambda x: x, "b": lambda x: x}, clock)(torch.zeros(5))
