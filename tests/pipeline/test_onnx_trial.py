"""A file that asks for memory while it computes is stopped before it is used here."""

from __future__ import annotations

import time

import onnx
import pytest

from kdeploy.errors import InputError, ModelError
from kdeploy.pipeline import onnx_trial
from kdeploy.pipeline.building import teacher_model
from kdeploy.pipeline.onnx_trial import check_runs
from kdeploy.store.references import ModelReference
from tests.fuzz.mutate_onnx import _asking


@pytest.fixture
def file(tmp_path):
    def write(kind, size):
        onnx.save(_asking(kind, size), tmp_path / "m.onnx")
        return tmp_path / "m.onnx"

    return write


@pytest.fixture(autouse=True)
def _forgotten():
    onnx_trial._check_runs.cache_clear()


def test_a_file_that_asks_for_four_gigabytes_is_refused_with_the_limit_to_raise(file):
    path = file("computed", 2**30)
    with pytest.raises(ModelError, match="more memory than 640 MB") as caught:
        teacher_model(ModelReference(build=f"onnx:{path}"))
    assert f"{onnx_trial.MEMORY}=1280" in caught.value.hint


def test_a_file_that_never_ends_is_refused(file, monkeypatch):
    monkeypatch.setattr(onnx_trial, "SECONDS", 0.01)
    with pytest.raises(ModelError, match=r"limit \(--timeout\)"):
        check_runs(file("computed", 10))


def test_an_honest_file_is_tried_once(file):
    path = file("computed", 1000)
    check_runs(path)
    started = time.perf_counter()
    check_runs(path)
    assert time.perf_counter() - started < 0.1


def test_the_limit_follows_the_file_and_can_be_told(file, monkeypatch):
    path = file("computed", 1000)
    assert onnx_trial._megabytes(path) == 640
    monkeypatch.setenv(onnx_trial.MEMORY, "4000")
    assert onnx_trial._megabytes(path) == 4000
    monkeypatch.setenv(onnx_trial.MEMORY, "much")
    with pytest.raises(InputError, match="much"):
        onnx_trial._megabytes(path)
