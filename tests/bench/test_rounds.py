from __future__ import annotations

import fcntl
from contextlib import contextmanager

import numpy as np

from kdeploy.bench import model_session as session
from kdeploy.bench import rounds
from kdeploy.bench.client import WorkerFailed
from kdeploy.bench.inputs import Pool
from kdeploy.bench.model_under_test import Configuration
from kdeploy.bench.plan import Plan
from kdeploy.data.load import DataReference
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


class Windows(Script):
    """The same with 10 windows of text, of which the teacher fails at one, if any."""

    def __init__(self, monkeypatch, tmp_path, fails_at=None):
        super().__init__(monkeypatch, tmp_path)
        self._fails_at = fails_at

    @contextmanager
    def _worker(self, folder, *, timeout_seconds):
        yield _Reader(folder.name, self.asked, self._fails_at)


class _Reader(_Worker):
    def __init__(self, name, asked, fails_at):
        super().__init__(name, asked)
        self._fails_at = fails_at

    def ask(self, request, *, expected_seconds=0.0):
        if request["do"] not in ("begin_beside", "beside", "end_beside"):
            return super().ask(request, expected_seconds=expected_seconds)
        self._asked.append((self._name, request))
        if request["do"] == "begin_beside":
            return {"num_items": 10, "num_at_once": 4 if self._name == "0" else 2}
        if request["do"] == "end_beside":
            np.save(request["file"], np.arange(3))
            found = {"metrics": {"perplexity": 2.0}, "is_labelled": True, "reason": None}
            told = {"num_tokens": 3, "num_differing": 0, "num_near_ties": 0, "examples": []}
            return {**found, **({} if self._name == "0" else {"next_tokens": told})}
        if (request["as"], request["start"]) == ("teacher", self._fails_at):
            raise WorkerFailed("crashed")
        return {"num_items": request["stop"] - request["start"]}

    def close(self):
        self._asked.append((self._name, {"do": "close"}))


def _beside(script, fake, **plan):
    data = DataReference(name="arrays", parameters={"train": "a.npz", "test": "b.npz"})
    plan = PLAN.model_copy(update={"data": data, "accuracy": True, **plan})
    models = [fake("teacher"), fake("int4")]
    return rounds.measure_group(
        models, CELL, plan, with_accuracy=True, watch=lambda text: None, teacher="teacher"
    )


def _steps(script):
    asked = [(name, r) for name, r in script.asked if r["do"] == "beside"]
    return [(name, r["as"], r["start"], r["stop"]) for name, r in asked]


def test_all_answer_the_same_windows_before_the_next_ones(monkeypatch, tmp_path, fake):
    script = Windows(monkeypatch, tmp_path)
    teacher, student = _beside(script, fake)
    assert _steps(script) == [
        *(("0", "teacher", 0, 4), ("1", "beside", 0, 4)),
        *(("0", "teacher", 4, 8), ("1", "beside", 4, 8)),
        *(("0", "teacher", 8, 10), ("1", "beside", 8, 10)),
    ]
    files = {r["file"] for _, r in script.asked if r["do"] == "beside"}
    assert len(files) == 1
    assert teacher.next_tokens is None
    assert student.next_tokens.num_tokens == 3
    assert student.accuracy == {"perplexity": 2.0}
    assert student.predictions.tolist() == [0, 1, 2]
    assert {name for name, r in script.asked if r["do"] == "close"} == {"0", "1"}


def test_validation_is_judged_the_same_way_and_has_no_examples(monkeypatch, tmp_path, fake):
    script = Windows(monkeypatch, tmp_path)
    _, student = _beside(script, fake, parts=("validation",))
    assert {r["part"] for _, r in script.asked if r["do"] == "begin_beside"} == {"validation"}
    assert student.validation_accuracy == {"perplexity": 2.0}
    assert student.next_tokens is None


def test_after_a_teacher_that_failed_the_others_go_on_alone(monkeypatch, tmp_path, fake):
    script = Windows(monkeypatch, tmp_path, fails_at=4)
    teacher, student = _beside(script, fake)
    assert [(name, role) for name, role, start, _ in _steps(script) if start >= 4] == [
        *(("0", "teacher"), ("1", "alone"), ("1", "alone")),
    ]
    assert teacher.missing["accuracy.top1"] == "crashed"
    assert teacher.accuracy == {}
    assert student.accuracy == {"perplexity": 2.0}
