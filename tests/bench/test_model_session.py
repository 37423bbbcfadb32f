from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kdeploy.bench import energy, nvml
from kdeploy.bench import model_session as side
from kdeploy.bench.client import WorkerFailed
from kdeploy.bench.inputs import Pool
from kdeploy.bench.model_session import ModelSession
from kdeploy.bench.model_under_test import Configuration
from kdeploy.bench.plan import Plan
from kdeploy.bench.scenarios.server import arrivals
from kdeploy.errors import Unavailable
from kdeploy.runtimes.fake import Fake

PLAN = Plan(
    data=None,
    accuracy=False,
    minimum_seconds=0.8,
    minimum_count=100,
    timeout_seconds=600,
    scenarios=["single_stream", "offline", "server"],
    latency_limit="15ms",
    memory_limit="1e9B",
)
OPENED = {"load_seconds": 0.1, "first_seconds": 0.2, "empty_bytes": 3, "loaded_bytes": 5}


class Scripted:
    """A worker with known answers; as a server it queues what comes, 2 ms a request."""

    pid, age_seconds = 4, 0.4

    def __init__(self, **answers):
        self.asked, self.is_closed = [], False
        self._answers = {
            "open": {**OPENED, "has_device_clock": False},
            "warm_up": {"is_steady": True, "batch_seconds": 0.002},
            "measure": {"elapsed_seconds": 0.05},
            "device": {"is_resting": True},
            "memory": {"peak_bytes": 7, "swapped_bytes": 0},
            "proof": {"proof": {"provider": "scripted"}},
            "keep_busy": {"num_batches": 100},
            "serve": {"is_resting": True},
            **answers,
        }

    def ask(self, request, *, expected_seconds=0.0):
        self.asked.append(request)
        if isinstance(self._answers[request["do"]], Exception):
            raise self._answers[request["do"]]
        if request["do"] in ("measure", "device"):
            np.save(request["file"], np.full(25, 2_000_000 if request["do"] == "measure" else 500))
        if request["do"] == "serve":
            np.save(request["file"], _queued(request))
        return self._answers[request["do"]]

    def close(self):
        self.is_closed = True


def _queued(request):
    due = arrivals(request["rate"], request["count"], seed=request["seed"])
    done, now = [], 0
    for at in due.tolist():
        now = max(now, at) + 2_000_000
        done.append(now - at)
    return np.array(done)


@pytest.fixture
def opened(monkeypatch, tmp_path, fake):
    """Return a function that opens a side with a scripted worker."""
    pool = Pool(shape=(2, 6, 6), is_real=True)
    monkeypatch.setattr(side, "write_pool", lambda *args, **options: pool)

    def open_it(worker, **configuration):
        configuration = Configuration(
            runtime="fake", threads=1, **{"batch_size": 4, **configuration}
        )
        found = ModelSession(fake("a"), configuration, PLAN, tmp_path)
        found.prepare()
        found.open(worker)
        return found

    return open_it


def _finished(found):
    found.finish(with_accuracy=False)
    return found.outcome(())


def test_the_process_is_told_where_its_runtime_is_and_looks_up_nothing(opened):
    worker = Scripted()
    opened(worker)
    told = {key: worker.asked[0][key] for key in ("do", "module", "kind", "options")}
    assert told == {"do": "open", "module": Fake.__module__, "kind": "Fake", "options": {}}


def test_what_the_runtime_does_not_open_is_refused_before_the_process_is_asked(tmp_path, fake):
    worker = Scripted()
    for runtime, path, reason in (
        ("onnxruntime_cpu", tmp_path, "opens `dynamic`, `onnx`"),
        ("fake", tmp_path / "gone.onnx", "FileMissing: there is no"),
    ):
        configuration = Configuration(runtime=runtime, batch_size=4, threads=1)
        found = ModelSession(replace(fake("a"), path=path), configuration, PLAN, tmp_path)
        found.prepare()
        found.open(worker)
        assert reason in _finished(found).skipped
    assert worker.asked == []


def test_a_runtime_that_cannot_run_here_says_why_before_the_process_is_asked(opened, monkeypatch):
    monkeypatch.setattr(Fake, "unavailable", lambda: "no reason at all")
    worker = Scripted()
    assert "no reason at all" in _finished(opened(worker)).skipped
    assert worker.asked == []


def test_a_device_with_a_clock_takes_two_times_a_round(opened):
    worker = Scripted(open={**OPENED, "has_device_clock": True})
    found = opened(worker)
    found.measure()
    outcome = _finished(found)
    assert [r.tolist() for r in outcome.rounds] == [[0.002] * 25]
    assert np.concatenate(outcome.device_rounds) == pytest.approx(5e-7)


def test_without_a_clock_the_device_is_not_asked(opened):
    worker = Scripted()
    found = opened(worker)
    found.measure()
    assert _finished(found).device_rounds == ()
    assert "device" not in [request["do"] for request in worker.asked]


def test_offline_takes_the_batch_that_was_found(opened):
    found = opened(Scripted(fit={"batch_size": 48}), scenario="offline")
    found.measure()
    outcome = _finished(found)
    assert outcome.batch_size == outcome.numbers["offline_batch_size"] == 48


def test_offline_without_a_batch_that_fits_says_what_it_had_to_fit_in(opened):
    found = opened(Scripted(fit={"batch_size": None}), scenario="offline")
    found.measure()
    assert "a batch of 4 does not fit" in _finished(found).skipped


def test_a_server_finds_the_rate_of_a_queue_with_constant_service(opened):
    worker = Scripted()
    found = opened(worker, scenario="server")
    found.serve(lambda text: None)
    outcome = _finished(found)
    rate = outcome.numbers["server_rate"] / 4
    # An independent loop: the same queue, other arrivals, many more of them.
    far = {"count": 100_000, "seed": 99}
    assert np.percentile(_queued({"rate": 0.95 * rate, **far}), 99) <= 15e6
    assert np.percentile(_queued({"rate": 1.15 * rate, **far}), 99) > 15e6
    assert sum(len(r) for r in outcome.rounds) >= 1000
    seeds = [request["seed"] for request in worker.asked if request["do"] == "serve"]
    assert len(set(seeds)) == len(seeds)
    assert "throughput" not in outcome.numbers


def test_a_server_that_is_too_slow_for_its_limit_says_what_one_request_takes(opened):
    worker = Scripted(warm_up={"is_steady": True, "batch_seconds": 0.02})
    found = opened(worker, scenario="server")
    found._plan = PLAN.model_copy(update={"latency_limit": "1ms"})
    found.serve(lambda text: None)
    assert "within 1 ms: one request alone takes 20 ms" in _finished(found).skipped


def test_a_server_that_would_take_hours_is_not_waited_for(opened):
    worker = Scripted(warm_up={"is_steady": True, "batch_seconds": 10.0})
    found = opened(worker, scenario="server")
    found._plan = PLAN.model_copy(update={"latency_limit": "100s"})
    found.serve(lambda text: None)
    assert "take longer than 600 s" in _finished(found).skipped
    assert "serve" not in [request["do"] for request in worker.asked]


def test_energy_is_of_an_item(opened, monkeypatch):
    class Meter:
        def __init__(self, device):
            assert device == "cpu"

        def joules(self):
            return 60.0

    monkeypatch.setattr(energy, "Meter", Meter)
    found = opened(Scripted())
    found.measure()
    assert _finished(found).numbers["energy"] == pytest.approx(60.0 / (100 * 4))


def test_energy_that_cannot_be_had_is_one_reason(opened, monkeypatch):
    def refuse(device):
        raise Unavailable("no counter", hint="buy one")

    monkeypatch.setattr(energy, "Meter", refuse)
    found = opened(Scripted())
    found.measure()
    reason = "energy is not measurable here: no counter; buy one"
    assert _finished(found).missing == {"energy": reason}


def test_a_gpu_is_asked_for_memory_and_whether_it_was_slowed(opened, monkeypatch):
    slowed = iter([5, 9])
    monkeypatch.setattr(side, "device_of", lambda runtime: "cuda")
    monkeypatch.setattr(nvml, "slowed_nanoseconds", lambda: next(slowed))
    monkeypatch.setattr(nvml, "memory_bytes", lambda pid: 1000 + pid)
    found = opened(Scripted())
    found.measure()
    outcome = _finished(found)
    assert outcome.numbers["device_memory"] == 1004
    assert "throttled" in outcome.flags


def test_what_comes_after_the_times_may_fail_alone(opened):
    found = opened(Scripted(proof=WorkerFailed("crashed")))
    found.measure()
    outcome = _finished(found)
    assert outcome.skipped is None
    assert outcome.missing["integer_kernels"] == "crashed"
    assert outcome.peak_memory_bytes == 7
