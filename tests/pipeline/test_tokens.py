"""Token ids the whole way: from a teacher to a verified bundle, for items and for every token."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from kdeploy.data.contract import NOT_COUNTED
from kdeploy.errors import ModelError
from kdeploy.measurement import read
from kdeploy.package.verify import verify
from kdeploy.pipeline.packaging import outputs_of
from kdeploy.pipeline.run import run
from kdeploy.recipe.read import load
from kdeploy.store.artifact import open_artifact
from kdeploy.store.model_io import load_model
from kdeploy.tasks.class_logits import log_likelihood
from tests.tiny.text import CLASSES, VOCABULARY, classified, continued

BUILD = Path(__file__).parents[1] / "tiny" / "text.py"
TRAINING = {"optimizer": "adamw", "learning_rate": 0.02, "batch_size": 16}


@pytest.fixture
def run_texts(tmp_path):
    """Return a function that runs a recipe for a build function and its data."""

    def go(build, x, y, *overrides):
        (tmp_path / "build.py").write_text(BUILD.read_text())
        for part in ("train", "test"):
            # The last items are of every kind, and the first are learned.
            chosen = slice(None) if part == "train" else slice(-12, None)
            np.savez(tmp_path / f"{part}.npz", x=x[chosen], y=y[chosen])
        recipe = {
            "name": "texts",
            "data": {
                "name": "arrays",
                "train": "train.npz",
                "test": "test.npz",
                "vocabulary": VOCABULARY,
            },
            "teacher": {
                "build": f"build.py:{build}",
                "args": {"width": 12},
                "train": {"epochs": 3, **TRAINING},
            },
            "student": {"build": f"build.py:{build}", "args": {"width": 6}},
            "distill": {"epochs": 2, **TRAINING},
            "compress": [{"int8_ptq": {"calibration_batches": 2, "batch_size": 8}}],
            "bench": {
                "runtimes": ["onnxruntime_cpu"],
                "threads": [1],
                "minimum_seconds": 0.02,
                "minimum_count": 10,
            },
            "gates": ["size: <= 1MB"],
            "package": {"budgets": ["peak_memory: <= 512MB"]},
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        result = run(load(tmp_path / "recipe.yaml", overrides), tmp_path / "run")
        return result, tmp_path / "run"

    return go


def test_a_classifier_goes_the_whole_way(run_texts):
    result, out = run_texts("Classifier", *classified(), "compress=[]")
    assert result.passed
    assert verify(out / "bundle").passed
    metrics = {r.metric for r in read(out) if r.value is not None}
    assert {"accuracy.top1", "latency.p50", "macs"} <= metrics
    assert "perplexity" not in metrics
    assert {m.label for m in result.models} == {"teacher", "student"}


def test_a_language_model_goes_the_whole_way(run_texts, tmp_path):
    x, y = continued()
    result, out = run_texts("Next", x, y)
    assert result.passed
    assert verify(out / "bundle").passed
    records = {(r.label, r.metric): r for r in read(out)}
    test = np.load(tmp_path / "test.npz")
    for label in ("teacher", "student", "int8_ptq"):
        logits = outputs_of(out / "exports" / f"{label}.onnx", test["x"].astype(np.int64))
        counts = test["y"] != NOT_COUNTED
        right = logits.argmax(-1)[counts] == test["y"][counts]
        assert records[label, "accuracy.top1"].value == pytest.approx(right.mean())
        assert records[label, "accuracy.top1"].n == counts.sum()
        expected = np.exp(-log_likelihood(logits[counts], test["y"][counts]).mean())
        assert records[label, "perplexity"].value == pytest.approx(expected, rel=1e-3)
    quantized = next(m for m in result.models if m.label == "int8_ptq")
    again = load_model(open_artifact(quantized.folder))
    assert again.example.dtype.is_floating_point is False


@pytest.mark.parametrize(
    ("build", "texts", "expected"),
    [("Classifier", continued, (2, 6, VOCABULARY)), ("Next", classified, (2, CLASSES))],
)
def test_a_teacher_of_another_task_is_refused_before_any_work(run_texts, build, texts, expected):
    with pytest.raises(ModelError) as caught:
        run_texts(build, *texts())
    assert f"expected logits {expected}" in caught.value.message


def test_where_a_language_model_differs_from_its_teacher_stands_in_the_run_and_its_report(
    run_texts,
):
    overrides = ("task=language_modeling", "compress=[]", "package=null")
    gate = 'gates=["divergence.next_token: <= 9"]'
    result, out = run_texts("Next", *continued(), *overrides, gate)
    assert all(verdict.passed for verdict in result.verdicts)
    (line,) = json.loads((out / "next_tokens.json").read_text())
    found = {(m.label, m.metric): m for m in read(out) if m.metric.endswith("next_token")}
    divergence, agreement = (
        found["student", f"{kind}.next_token"] for kind in ("divergence", "agreement")
    )
    assert line["label"] == "student"
    assert line["divergence_nats"] == divergence.value > 0
    assert line["tokens"] == divergence.n == agreement.n
    assert agreement.value == pytest.approx(1 - line["differing"] / line["tokens"])
    assert ("teacher", "divergence.next_token") not in found
    validated = {m.metric for m in read(out / "validation.jsonl") if m.label == "student"}
    assert "divergence.next_token" in validated
    for report in ("report.html", "report.md"):
        assert "Tokens that differ from the teacher" in (out / report).read_text()
