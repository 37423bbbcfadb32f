from __future__ import annotations

import fcntl
from contextlib import contextmanager

import numpy as np

from kdeploy.bench import model_session as session
from kdeploy.bench import rounds
from kdeploy.bench.inputs import Pool
from kdeploy.bench.model_under_test import Configuration
from kdeploy.bench.plan import Plan
from kdeploy.system import machine_turns

CELL = Configuration(runtime="fake", batch_size=1, threads=1)
PLAN = Plan(
    data=None, accuracy=False, minimum_seconds=0.8, minimum_count=100, timeout_seconds=5, rounds=4
)


class Script:
    """Stands for all workers, and writes down who was asked for what."""

    def __init__(self, monkeypatch, tmp_path):
        self.asked = []
        monkeypatch.setattr(rounds, "Worker", self._worker)
        pool = Pool(shape=(2, 6, 6), is_real=False)
        monkeypatch.setattr(session, "write_pool", lambda *args, **options: pool)

    @contextmanager
    def _worker(self, folder, *, timeout_seconds):
        yield _Worker(folder.name, self.asked)


class _Worker:
    pid = 1
    age_seconds = 0.4

    def __init__(self, name, asked):
        self._name, self._asked = name, asked

    def ask(self, request, *, expected_seconds=0.0):
        self._asked.append((self._name, request))
        if request["do"] == "measure":
            np.save(request["file"], np.full(25, 2_000_000))
        return {
            "open": {
                "load_seconds": 0.1,
                "first_seconds": 0.2,
                "empty_bytes": 3,
                "loaded_bytes": 5,
                "has_device_clock": False,
            },
            "warm_up": {"is_steady": True, "batch_seconds": 0.002},
            "measure": {"elapsed_seconds": 0.05},
            "memory": {"peak_bytes": 7, "swapped_bytes": 4096},
            "proof": {"proof": {"provider": "scripted"}},
        }[request["do"]]

    def close(self):
        pass


def test_turns_alternate_turn_around_and_begin_with_another(monkeypatch, tmp_path, fake):
    script = Script(monkeypatch, tmp_path)
    models = [fake("a"), fake("b"), fake("c")]
    rounds.measure_group(models, CELL, PLAN, with_accuracy=False, watch=lambda text: None)
    turns = "".join(name for name, request in script.asked if request["do"] == "measure")
    assert turns == "012210120021"


def test_time_and_count_are_shared_out_among_rounds(monkeypatch, tmp_path, fake):
    script = Script(monkeypatch, tmp_path)
    (outcome,) = rounds.measure_group(
        [fake("a")], CELL, PLAN, with_accuracy=False, watch=lambda text: None
    )
    measured = [request for _, request in script.asked if request["do"] == "measure"]
    assert {(r["seconds"], r["count"]) for r in measured} == {(0.2, 25)}
    assert [r.tolist() for r in outcome.rounds] == [[0.002] * 25] * 4
    assert outcome.elapsed_seconds == (0.05,) * 4


def test_memory_is_read_before_the_proof_and_the_data_raise_it(monkeypatch, tmp_path, fake):
    script = Script(monkeypatch, tmp_path)
    (outcome,) = rounds.measure_group(
        [fake("a")], CELL, PLAN, with_accuracy=False, watch=lambda text: None
    )
    assert [request["do"] for _, request in script.asked][-2:] == ["memory", "proof"]
    assert outcome.peak_memory_bytes == 7
    assert outcome.numbers == {"cold_start": 0.4, "load_memory": 2, "memory_over_runtime": 4}
    assert {"swapped", "random_inputs"} <= set(outcome.flags)


def test_nobody_else_measures_meanwhile(monkeypatch, tmp_path, fake):
    Script(monkeypatch, tmp_path)
    folder = tmp_path / "locks"
    folder.mkdir()
    monkeypatch.setenv(machine_turns.FOLDER, str(folder))
    is_free = []

    def watch(text):
        [file] = folder.iterdir()
        with file.open() as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                is_free.append(False)
            else:
                is_free.append(True)

    rounds.measure_group([fake("a")], CELL, PLAN, with_accuracy=False, watch=watch)
    assert is_free
    assert not any(is_free)
