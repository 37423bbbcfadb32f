from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import onnx
import pytest

from kdeploy.bench import run as bench_run
from kdeploy.bench.cache import ARRAYS, FACTS, GroupCache, ModelGroup, contents_sha256, finished_now
from kdeploy.bench.model_under_test import Configuration, Outcome
from kdeploy.bench.plan import Plan
from kdeploy.bench.run import BenchInterrupted, bench
from kdeploy.machine import fingerprint
from kdeploy.runtimes.contract import Proof

QUICK = {"runtimes": ["fake"], "threads": [1], "minimum_seconds": 0.02, "minimum_count": 16}
PLAN = Plan(data=None, accuracy=False, minimum_seconds=1, minimum_count=9, timeout_seconds=9)
CELL = Configuration(runtime="fake", batch_size=1, threads=1)
ROUNDS = (np.array([0.1, 0.2]), np.array([0.3]))


@pytest.fixture
def measured(monkeypatch):
    """Stand for measuring; return what was asked for: configuration and labels of each group."""
    groups = []

    def scripted(models, configuration, plan, *, with_accuracy, watch, teacher):
        groups.append((str(configuration), [s.label for s in models]))
        for model in models:
            watch(f"{configuration}: {model.name} warms up")
        return [_outcome(model, configuration) for model in models]

    monkeypatch.setattr(bench_run, "measure_group", scripted)
    return groups


def _outcome(model, configuration):
    return Outcome(
        model=model,
        configuration=configuration,
        rounds=ROUNDS,
        elapsed_seconds=(0.3, 0.3),
        peak_memory_bytes=10**8,
        proof=Proof(provider="fake", operators={"Conv": 2}, layers=[{"name": "a"}]),
        accuracy={"accuracy.top1": 0.5},
        predictions=np.array([1, 0, 1]),
        flags=("outliers",),
    )


def _store(folder, **changes):
    return GroupCache(folder=folder, plan=PLAN, machine=replace(fingerprint(), **changes))


def _group(model):
    return ModelGroup(models=[model], configuration=CELL, with_accuracy=False)


def _put(store, model):
    outcome = _outcome(model, CELL)
    store.put(_group(model), finished_now([outcome]))
    return outcome


def test_an_outcome_comes_back_as_it_was(fake, tmp_path):
    model = fake("a")
    outcome = _put(_store(tmp_path / "kept"), model)
    # What else is known of a file is what whoever asks says.
    known = replace(model, macs=7)
    (found,) = _store(tmp_path / "kept").get(_group(known)).outcomes
    assert found.model == known
    for name in ("proof", "accuracy", "flags", "elapsed_seconds", "missing", "skipped"):
        assert getattr(found, name) == getattr(outcome, name)
    assert [r.tolist() for r in found.rounds] == [r.tolist() for r in ROUNDS]
    assert found.predictions.tolist() == [1, 0, 1]


def test_whatever_changes_the_numbers_makes_another_group(fake, tmp_path):
    store, model = _store(tmp_path / "kept"), fake("a")
    _put(store, model)
    group = _group(model)
    assert store.get(replace(group, configuration=replace(CELL, threads=2))) is None
    assert store.get(replace(group, with_accuracy=True)) is None
    assert replace(store, plan=PLAN.model_copy(update={"minimum_seconds": 2.0})).get(group) is None
    assert _store(tmp_path / "kept", id="another").get(group) is None
    assert _store(tmp_path / "kept", versions={"onnxruntime": "99"}).get(group) is None
    assert store.get(_group(replace(model, label="copy"))) is None
    assert store.get(group) is not None
    model.path.write_text('{"seed": 7}')
    assert _store(tmp_path / "kept").get(group) is None


@pytest.mark.parametrize("name", [FACTS, ARRAYS])
def test_what_is_cut_off_is_not_there(fake, tmp_path, name):
    store, model = _store(tmp_path / "kept"), fake("a")
    _put(store, model)
    (file,) = (tmp_path / "kept").glob(f"*/{name}")
    file.write_bytes(file.read_bytes()[:50])
    assert store.get(_group(model)) is None
    _put(store, model)
    assert store.get(_group(model)) is not None


def test_weights_beside_a_file_are_part_of_it(float_file, tmp_path):
    path = tmp_path / "model.onnx"
    model = onnx.load(float_file)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    before = contents_sha256(path)
    weights = bytearray((tmp_path / "weights.bin").read_bytes())
    weights[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(weights)
    assert contents_sha256(path) != before


def test_a_second_call_measures_only_what_is_new(fake, data, tmp_path, measured):
    plan, kept = Plan(data=data, **QUICK), tmp_path / "kept"
    first = bench([fake("a")], plan, cache_folder=kept, out=tmp_path / "1")
    second = bench(
        [fake("a"), fake("b")],
        Plan(data=data, batch_sizes=[1, 2], **QUICK),
        cache_folder=kept,
        out=tmp_path / "2",
    )
    assert measured == [
        ("fake-b1-t1", ["a"]), ("fake-b1-t1", ["b"]), ("fake-b2-t1", ["a"]), ("fake-b2-t1", ["b"]),
    ]  # fmt: skip
    assert second.measurements[: len(first.measurements)] == first.measurements
    assert len(list((tmp_path / "2" / "samples").iterdir())) == 4


def test_with_a_baseline_all_of_a_cell_are_measured_together(fake, data, tmp_path, measured):
    plan, kept = Plan(data=data, accuracy=False, **QUICK), tmp_path / "kept"
    together = {"cache_folder": kept, "baseline": "a"}
    bench([fake("a"), fake("b")], plan, **together, out=tmp_path)
    again = bench([fake("a"), fake("b")], plan, **together, out=tmp_path)
    bench([fake("a"), fake("b"), fake("c")], plan, **together, out=tmp_path)
    assert [labels for _, labels in measured] == [["a", "b"], ["a", "b", "c"]]
    assert [c["metric"] for c in again.comparisons] == ["latency.p50", "throughput"]
    bench([fake("a"), fake("b")], plan, **together, out=tmp_path, no_cache=True)
    assert len(measured) == 3


def test_an_interrupt_keeps_and_returns_what_was_finished(fake, data, tmp_path, measured):
    def interrupt(text):
        if "b warms up" in text:
            raise KeyboardInterrupt

    plan, kept = Plan(data=data, **QUICK), tmp_path / "kept"
    with pytest.raises(BenchInterrupted, match="1 of 2") as caught:
        bench([fake("a"), fake("b")], plan, cache_folder=kept, out=tmp_path, watch=interrupt)
    assert {m.label for m in caught.value.result.measurements} == {"a"}
    bench([fake("a"), fake("b")], plan, cache_folder=kept, out=tmp_path)
    assert [labels for _, labels in measured] == [["a"], ["b"], ["b"]]


CHILD = """
import json, sys
from pathlib import Path
from kdeploy.bench.plan import Plan
from kdeploy.bench.run import ModelUnderTest, bench
from kdeploy.data.load import DataReference

folder = Path(sys.argv[1])
data = DataReference.from_dict(json.loads((folder / "data.json").read_text()))
files = sorted(folder.glob("*.onnx"))
starts = (folder / "starts.txt").open("a", buffering=1)
result = bench(
    [ModelUnderTest(artifact=f.stem, label=f.stem, path=f, format="onnx") for f in files],
    Plan(runtimes=["fake"], batch_sizes=[1, 2], threads=[1], data=data, accuracy=False,
    minimum_seconds=0.02, minimum_count=8), out=folder / "out", cache_folder=folder / "kept",
    watch=lambda text: "warms up" in text and starts.write(text + "\\n"),
)
rows = [m.to_json() for m in result.measurements if m.metric == "latency.p50"]
(folder / "rows.jsonl").write_text("\\n".join(rows))
"""


def test_killed_twice_nothing_is_lost_or_measured_twice(fake, data, tmp_path):
    for label in ("a", "b", "c"):
        fake(label, seed=ord(label))
    (tmp_path / "data.json").write_text(json.dumps(data.to_dict()))
    for stop_at in (2, 4, None):
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path)], start_new_session=True
        )
        while process.poll() is None:
            if stop_at is not None and len(_finished(tmp_path)) >= stop_at:
                before = _finished(tmp_path)
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                assert before <= _finished(tmp_path)
            time.sleep(0.01)
        assert process.returncode == (0 if stop_at is None else -signal.SIGKILL)
    assert len(_finished(tmp_path)) == len((tmp_path / "rows.jsonl").read_text().split("\n")) == 6
    starts = (tmp_path / "starts.txt").read_text().splitlines()
    # What was under way at a kill is begun again, and nothing else.
    assert 6 <= len(starts) <= 8
    assert len(set(starts)) == 6


def _finished(folder):
    return {path.parent.name for path in (folder / "kept").glob(f"[0-9a-f]*/{FACTS}")}
