from __future__ import annotations

import gc
import itertools
import time

import numpy as np
import pytest

from kdeploy.bench import measure

BATCHES = [np.full((1, 2), i, np.float32) for i in range(3)]


class Clock:
    """Time that passes only when a batch is run, by the durations given in turn."""

    def __init__(self, monkeypatch, durations):
        self.now = 0.0
        self._durations = itertools.chain(durations, itertools.repeat(durations[-1]))
        self.seen = []
        monkeypatch.setattr("time.perf_counter_ns", lambda: round(self.now * 1e9))
        monkeypatch.setattr("time.perf_counter", lambda: self.now)

    def infer(self, batch):
        self.now += next(self._durations)
        self.seen.append(float(batch[0, 0]))


def test_times_each_batch_and_all_of_them(monkeypatch):
    clock = Clock(monkeypatch, [0.001, 0.003, 0.002])
    samples, elapsed = measure.timed(clock.infer, BATCHES, seconds=0, count=3)
    assert samples.tolist() == [1_000_000, 3_000_000, 2_000_000]
    assert elapsed == pytest.approx(0.006)


@pytest.mark.parametrize(("seconds", "count", "expected"), [(0.0, 7, 7), (0.02, 2, 20)])
def test_goes_on_for_both_the_time_and_the_count(monkeypatch, seconds, count, expected):
    clock = Clock(monkeypatch, [0.001])
    samples, _ = measure.timed(clock.infer, BATCHES, seconds=seconds, count=count)
    assert len(samples) == expected


def test_batches_take_turns(monkeypatch):
    clock = Clock(monkeypatch, [0.001])
    measure.timed(clock.infer, BATCHES, seconds=0, count=5)
    assert clock.seen == [0, 1, 2, 0, 1]


def test_warm_up_ends_when_three_windows_agree(monkeypatch):
    clock = Clock(monkeypatch, [0.010] * 3 + [0.005] * 3 + [0.001])
    is_steady, median_seconds = measure.warm_up(
        clock.infer, BATCHES, window_seconds=0, limit_seconds=10
    )
    assert is_steady
    assert median_seconds == pytest.approx(0.001)
    assert len(clock.seen) == 5 * 3


def test_warm_up_gives_up_at_its_limit(monkeypatch):
    clock = Clock(monkeypatch, [0.01 * 1.2**i for i in range(60)])
    is_steady, _ = measure.warm_up(clock.infer, BATCHES, window_seconds=0, limit_seconds=2)
    assert not is_steady


@pytest.mark.parametrize("count", [1, 999, 1000, 5003])
def test_the_median_of_a_window_is_that_of_all_its_times(count):
    samples = np.random.default_rng(0).permutation(np.arange(count) + 10**6)
    assert measure._median(samples) == pytest.approx(np.median(samples), rel=1e-3)
    assert isinstance(measure._median(samples), int)


def test_a_round_wakes_up_before_it_counts(monkeypatch):
    clock = Clock(monkeypatch, [0.5] * measure.AWAKENING_CALLS + [0.001])
    samples, _ = measure.round_of(clock.infer, BATCHES, seconds=0, count=4)
    assert samples.tolist() == [1_000_000] * 4


def test_the_devices_clock_is_asked_about_each_batch_and_its_answers_kept(monkeypatch):
    clock = Clock(monkeypatch, [0.001])
    answers = iter([4e-4, 5e-4, 6e-4])
    samples = measure.device_round_of(
        clock.infer, lambda: next(answers), BATCHES, seconds=0, count=3
    )
    assert samples.tolist() == [400_000, 500_000, 600_000]


def test_the_garbage_collector_is_off_while_timing_and_back_on_afterwards():
    seen = []
    measure.timed(lambda batch: seen.append(gc.isenabled()), BATCHES, seconds=0, count=2)
    assert seen == [False, False]
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("spinning_seconds", "expected", "waited_seconds"),
    [(0.0, True, 0.01), (0.045, True, 0.06), (9.0, False, 1.0)],
)
def test_rest_waits_until_spinning_threads_have_stopped(
    monkeypatch, spinning_seconds, expected, waited_seconds
):
    clock = Clock(monkeypatch, [0.001])

    def sleep(seconds):
        clock.now += seconds

    monkeypatch.setattr("time.sleep", sleep)
    monkeypatch.setattr("time.process_time", lambda: min(clock.now, spinning_seconds))
    assert measure.rest(limit_seconds=1.0) == expected
    assert clock.now == pytest.approx(waited_seconds, abs=0.011)


def test_seconds_of_a_call_are_seconds(monkeypatch):
    clock = Clock(monkeypatch, [0.25])
    assert measure.seconds_of(lambda: clock.infer(BATCHES[0])) == pytest.approx(0.25)
    assert time.perf_counter() == 0.25
