from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from kdeploy import registry
from kdeploy.bench.inputs import Pool
from kdeploy.bench.model_under_test import Configuration, ModelUnderTest
from kdeploy.bench.plan import Plan
from kdeploy.bench.ssh.job import DeviceGroup, Job, SentItems
from kdeploy.bench.ssh.outcomes import outcomes_of
from kdeploy.data.contract import NOT_COUNTED

COUNTERS = {"at_seconds": 0.0, "busy_seconds": 0.0, "own_seconds": 0.0, "throttled": 0}
SIDE = {
    "failure": None,
    "missing": {},
    "load_seconds": 0.1,
    "first_seconds": 0.2,
    "cold_start_seconds": 0.9,
    "empty_bytes": 30_000_000,
    "loaded_bytes": 34_000_000,
    "elapsed_seconds": [0.3, 0.4],
    "is_steady": True,
    "peak_bytes": 50_000_000,
    "swapped_bytes": 0,
    "provider": "CPUExecutionProvider",
    "operators": {"QLinearConv": 3, "Conv": 1},
    "stored_operators": {"Conv": 4, "DequantizeLinear": 9},
}


@pytest.fixture
def outcome(tmp_path):
    """Return a function that judges what one side has seen."""

    def judge(side, *, labels=None, answers=None, after=COUNTERS, task=None):
        test = None
        if labels is not None:
            test = SentItems(
                items=np.zeros(len(labels)), targets=np.array(labels), total=len(labels)
            )
        arrays = {f"answer.{name}-0": np.array(a) for name, a in (answers or {}).items()}
        seen = {"sides": [{**SIDE, **side}], "before": COUNTERS, "after": {**COUNTERS, **after}}
        samples = {"nanoseconds-0": np.array([1000, 2000, 3000]), "counts-0": np.array([1, 2])}
        np.savez(tmp_path / "r.npz", seen=np.array(json.dumps(seen)), **samples, **arrays)
        job = _job(test) if task is None else replace(_job(test), task=task)
        [found] = outcomes_of(tmp_path / "r.npz", group, job)
        return found

    configuration = Configuration(runtime="onnxruntime_cpu", batch_size=1, threads=4)
    group = DeviceGroup(
        configuration=configuration,
        with_accuracy=True,
        members=(0,),
        pools=("p",),
        made=(Pool(shape=(2,), is_real=False),),
    )
    return judge


def _job(test):
    model = ModelUnderTest(artifact="a", label="a", path=None, format="onnx")
    timing = {"minimum_seconds": 1, "minimum_count": 1, "timeout_seconds": 1}
    plan = Plan(data=None, accuracy=True, **timing)
    return Job(models=[model], groups=(), plan=plan, files={}, model_files=["m"], test=test)


def test_rounds_proof_and_doubts_come_home(outcome):
    busy = {"at_seconds": 10.0, "busy_seconds": 9.0, "own_seconds": 1.0, "throttled": 1}
    found = outcome({"swapped_bytes": 4096}, after=busy)
    assert [list(r) for r in found.rounds] == [[pytest.approx(1e-6)], pytest.approx([2e-6, 3e-6])]
    assert (found.proof.integer, found.proof.eligible, found.proof.is_quantized) == (3, 4, True)
    expected = {"cold_start": 0.9, "load_memory": 4_000_000, "memory_over_runtime": 20_000_000}
    assert found.numbers == expected
    assert {"random_inputs", "swapped", "other_load", "throttled"} <= set(found.flags)


def test_a_file_that_failed_there_carries_its_reason(outcome):
    assert outcome({"failure": "killed (SIGKILL)"}).skipped == "killed (SIGKILL)"


def test_accuracy_is_judged_on_the_items_that_travelled(outcome):
    found = outcome({}, labels=[0, 1, 1, 2], answers={"predictions": [0, 1, 2, 2]})
    assert found.accuracy["accuracy.top1"] == 0.75
    assert list(found.predictions) == [0, 1, 2, 2]


def test_only_tokens_that_count_are_judged_and_perplexity_says_why_not(outcome):
    labels = [[0, NOT_COUNTED], [1, 1]]
    found = outcome({}, labels=labels, answers={"predictions": [[0, 5], [1, 0]]})
    assert found.accuracy["accuracy.top1"] == pytest.approx(2 / 3)
    assert "no probabilities" in found.missing["perplexity"]


def test_answers_of_another_shape_are_a_reason(outcome):
    found = outcome({}, labels=[0, 1], answers={"predictions": [[0, 1], [1, 1]]})
    assert found.predictions is None
    assert "[2, 2]" in found.missing["accuracy.top1"]


def test_answers_of_other_tasks_are_judged_at_home(outcome):
    task = registry.find("task", "regression").load()(standardize=False)
    targets = [[1.0], [2.0], [4.0]]
    found = outcome({}, labels=targets, answers={"out": [[1.5], [2.0], [4.0]]}, task=task)
    assert found.accuracy["regression.mae"] == pytest.approx(0.5 / 3)
    assert found.predictions.shape[0] == 3


def test_what_another_runtime_says_of_itself_is_its_proof(outcome):
    side = {"proof": {"provider": "LiteRT, XNNPACK", "eligible": 5, "integer": 4}}
    proof = outcome(side).proof
    assert (proof.provider, proof.integer_kernels) == ("LiteRT, XNNPACK", 0.8)


def test_energy_is_of_an_item_and_its_absence_a_reason(outcome):
    assert outcome({"joules": 6.0, "num_batches": 3}).numbers["energy"] == 2.0
    found = outcome({"not_told": {"energy": "no counter"}})
    assert found.missing == {"energy": "no counter"}
    assert "energy" not in found.numbers
