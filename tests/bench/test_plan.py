from __future__ import annotations

import pytest

from kdeploy.bench.plan import EFFORT_SECONDS, BenchPlan
from kdeploy.errors import KdeployError
from kdeploy.registry import check


def bench_plan(given):
    return check(BenchPlan, given, where="bench")


@pytest.mark.parametrize("effort", EFFORT_SECONDS)
def test_effort_says_how_long_a_cell_is_measured(effort):
    assert bench_plan({"effort": effort}).seconds == EFFORT_SECONDS[effort]


def test_seconds_that_are_given_count_more_than_effort():
    assert bench_plan({"effort": "sustained", "minimum_seconds": 0.2}).seconds == 0.2


def test_limits_and_sizes_are_read():
    section = bench_plan(
        {
            "scenarios": ["server", "offline"],
            "latency_limit": "15ms",
            "memory_limit": "512MB",
            "sizes": [128, "160x96"],
        }
    )
    assert section.latency_limit_seconds == 0.015
    assert section.memory_limit_bytes == 512_000_000
    assert section.item_sizes == [(128,), (160, 96)]


def test_without_sizes_the_data_are_taken_as_they_are():
    assert bench_plan({}).item_sizes == [()]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"effort": "long"}, "quick"),
        ({"scenarios": ["serve"]}, "server"),
        ({"scenarios": ["server"]}, "there is none"),
        ({"latency_limit": "15ms"}, "not measured"),
        ({"memory_limit": "1GB"}, "not measured"),
        ({"scenarios": ["server"], "latency_limit": "15MB"}, "not in s"),
        ({"scenarios": ["server"], "latency_limit": "0ms"}, "above 0"),
        ({"scenarios": ["server"], "latency_limit": "fast"}, "quantity"),
        ({"sizes": ["12by8"]}, "not a size"),
        ({"sizes": [0]}, "not a size"),
        ({"batch_sizes": [1, 0]}, "greater than 0"),
        ({"threads": [None, 0]}, "greater than 0"),
    ],
)
def test_limits_of_nothing_and_sizes_that_are_none_are_refused(given, message):
    with pytest.raises(KdeployError, match=message) as caught:
        bench_plan(given)
    assert caught.value.hint
    assert caught.value.exit_code == 2
