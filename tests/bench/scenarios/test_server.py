from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy.stats import kstest

from kdeploy.bench.scenarios import server
from kdeploy.bench.scenarios.server import ServerRun

MILLISECOND = 1_000_000


class Clock:
    """Time that passes by sleeping, by looking, and by running a batch."""

    def __init__(self, monkeypatch, *, batch_nanoseconds):
        self.now, self._batch, self.seen = 0, batch_nanoseconds, []
        monkeypatch.setattr("time.perf_counter_ns", self._look)
        monkeypatch.setattr("time.sleep", self._sleep)

    def _look(self):
        self.now += 1000
        return self.now

    def _sleep(self, seconds):
        self.now += round(seconds * 1e9)

    def infer(self, batch):
        self.seen.append(batch)
        self.now += self._batch


def _serve(clock, schedule, *, limit_seconds=1.0, late_allowed=0):
    samples = server.serve(
        clock.infer,
        ["a", "b"],
        np.array(schedule),
        limit_seconds=limit_seconds,
        late_allowed=late_allowed,
    )
    return samples / MILLISECOND


def test_arrivals_are_a_poisson_process_that_a_seed_repeats():
    found = server.arrivals(200.0, 5000, seed=1)
    gaps = np.diff(found, prepend=0) * 1e-9
    assert kstest(gaps, "expon", args=(0, 1 / 200)).pvalue > 0.01
    np.testing.assert_array_equal(found, server.arrivals(200.0, 5000, seed=1))
    assert (found != server.arrivals(200.0, 5000, seed=2)).any()


def test_a_latency_counts_from_the_scheduled_arrival(monkeypatch):
    clock = Clock(monkeypatch, batch_nanoseconds=10 * MILLISECOND)
    # The second comes while the first is served, the third after both.
    found = _serve(clock, [0, 4 * MILLISECOND, 50 * MILLISECOND])
    assert found == pytest.approx([10, 16, 10], abs=0.05)
    assert clock.seen == ["a", "b", "a"]


def test_a_slow_answer_is_felt_by_all_behind_it(monkeypatch):
    clock = Clock(monkeypatch, batch_nanoseconds=10 * MILLISECOND)
    found = _serve(clock, [n * MILLISECOND for n in range(5)])
    assert found == pytest.approx([10, 19, 28, 37, 46], abs=0.1)


def test_a_run_ends_when_one_more_than_allowed_was_late(monkeypatch):
    clock = Clock(monkeypatch, batch_nanoseconds=10 * MILLISECOND)
    schedule = [n * MILLISECOND for n in range(50)]
    assert len(_serve(clock, schedule, limit_seconds=0.02, late_allowed=3)) == 2 + 3 + 1


def test_the_highest_rate_is_found_within_four_percent():
    found = server.highest_rate(lambda r: r <= 73, lambda r: r <= 73, capacity=100)
    assert 73 / server.PRECISION <= found <= 73


def test_no_rate_is_claimed_that_keeps_the_server_busy_all_the_time():
    found = server.highest_rate(lambda r: True, lambda r: True, capacity=100)
    assert 95 / server.PRECISION <= found < 95


def test_a_slow_rate_is_found_too_and_none_where_there_is_none():
    assert 7.8 <= server.highest_rate(lambda r: r <= 8, lambda r: True, capacity=100) <= 8
    assert server.highest_rate(lambda r: False, lambda r: True, capacity=100) is None


def test_what_the_last_run_does_not_confirm_is_lowered():
    found = server.highest_rate(lambda r: r <= 80, lambda r: r <= 76, capacity=100)
    assert 76 * server.STEP_BACK <= found <= 76
    assert server.highest_rate(lambda r: r <= 80, lambda r: False, capacity=100) is None


def test_a_run_lasts_for_the_time_the_limit_and_the_count():
    num = partial(server.num_requests, run=ServerRun(requests=662, spells=0), capacity=1e9)
    assert num(10.0, seconds=1.0, limit_seconds=0.01) == 662
    assert num(1000.0, seconds=2.0, limit_seconds=0.01) == 2000
    assert num(1000.0, seconds=1.0, limit_seconds=0.1) == 2000


def test_a_run_is_longer_the_busier_the_server_is_up_to_a_minute():
    num = partial(
        server.num_requests, run=ServerRun(requests=1, spells=100), seconds=0, limit_seconds=0
    )
    assert num(500.0, capacity=1000) == 400
    assert num(900.0, capacity=1000) == pytest.approx(10_000, abs=1)
    assert num(9.0, capacity=10) == 9 * 60
