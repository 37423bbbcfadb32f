import numpy as np
import pytest

from kdeploy.bench import run as bench_run
from kdeploy.bench.model_under_test import Outcome
from kdeploy.bench.plan import BenchPlan
from kdeploy.bench.run import BenchInterrupted
from kdeploy.data.load import DataReference
from kdeploy.errors import InputError
from kdeploy.measurement import read, select
from kdeploy.pipeline.log import NullListener
from kdeploy.pipeline.side_by_side import bench_side_by_side
from kdeploy.registry import check

ROUNDS = (np.array([0.001, 0.002]),) * 8


def bench_plan(given):
    return check(BenchPlan, given, where="bench")


class Measuring:
    """Stands for measuring: writes down what was asked for, and may be interrupted."""

    def __init__(self):
        self.groups = []
        self.interrupt_at = None

    def __call__(self, models, configuration, plan, **options):
        if len(self.groups) == self.interrupt_at:
            raise KeyboardInterrupt
        self.groups.append((str(configuration), [s.label for s in models]))
        seen = {"rounds": ROUNDS, "elapsed_seconds": (0.003,) * 8, "peak_memory_bytes": 10**8}
        return [Outcome(model=s, configuration=configuration, **seen) for s in models]


@pytest.fixture
def measuring(monkeypatch):
    scripted = Measuring()
    monkeypatch.setattr(bench_run, "measure_group", scripted)
    return scripted


@pytest.fixture
def bench(tmp_path, tiny_data):
    """Return a function that measures the fake files of these names."""
    for name, part in (("train", tiny_data.train), ("test", tiny_data.test)):
        np.savez(tmp_path / f"{name}.npz", x=part.x, y=part.y)
    data = DataReference(
        name="arrays", parameters={"train": "train.npz", "test": "test.npz"}, folder=tmp_path
    )

    def go(*names, baseline=None, use_cache=True, batch_sizes=(1,)):
        files = [tmp_path / f"{name}.onnx" for name in names]
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("{}")
        given = {"runtimes": ["fake"], "threads": [1], "batch_sizes": list(batch_sizes)}
        return bench_side_by_side(
            [str(file) for file in files],
            bench_plan({**given, "accuracy": False}),
            tmp_path / "out",
            baseline=baseline and str(tmp_path / f"{baseline}.onnx"),
            gates=[],
            data=data,
            listener=NullListener(),
            use_cache=use_cache,
        )

    return go


def test_files_of_one_name_are_called_after_the_folders_in_which_they_differ(bench, measuring):
    bench("run/exports/teacher", "run2/exports/teacher", "other", baseline="run/exports/teacher")
    assert measuring.groups == [("fake-b1-t1", ["teacher@run", "teacher@run2", "other"])]


def test_a_file_that_is_named_twice_is_refused(bench, measuring):
    with pytest.raises(InputError, match="named twice") as caught:
        bench("a", "b", "a")
    assert caught.value.hint == "name each file once"


def test_another_file_or_batch_size_measures_only_what_is_new(bench, measuring):
    bench("a")
    measured = bench("a", "b", batch_sizes=[1, 2])
    assert measuring.groups == [
        ("fake-b1-t1", ["a"]), ("fake-b1-t1", ["b"]), ("fake-b2-t1", ["a"]), ("fake-b2-t1", ["b"]),
    ]  # fmt: skip
    assert sum(r.metric == "latency.p50" for r in measured.records) == 4


def test_without_the_cache_all_is_measured_anew(bench, measuring):
    bench("a")
    bench("a")
    assert len(measuring.groups) == 1
    bench("a", use_cache=False)
    assert len(measuring.groups) == 2


def test_what_was_finished_before_an_interrupt_is_written_and_not_measured_again(
    bench, measuring, tmp_path
):
    measuring.interrupt_at = 1
    with pytest.raises(BenchInterrupted):
        bench("a", "b")
    assert {r.label for r in read(tmp_path / "out")} == {"a"}
    measuring.interrupt_at = None
    bench("a", "b")
    assert [labels for _, labels in measuring.groups] == [["a"], ["b"]]
    assert {r.label for r in read(tmp_path / "out")} == {"a", "b"}


def test_a_runtime_that_has_come_is_measured(bench, measuring, monkeypatch):
    fake = "kdeploy.runtimes.fake.Fake.unavailable"
    with monkeypatch.context() as missing:
        missing.setattr(fake, lambda: "pip install luck")
        assert all(r.skipped for r in bench("a").records)
    assert not any(r.skipped for r in select(bench("a").records, "latency.p50"))
