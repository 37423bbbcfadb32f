from __future__ import annotations

import pytest

from kdeploy.errors import FileMissing, ModelError, Unavailable, UnknownName
from kdeploy.runtimes.run import format_of, open_runtime, states


def test_every_runtime_has_a_state_and_a_missing_one_its_remedy():
    known = states()
    assert {"torch_eager", "onnxruntime_cpu", "openvino", "tensorrt", "fake"} <= set(known)
    assert known["fake"] is None
    assert known["onnxruntime_cpu"] is None


def test_opens_by_name(float_file):
    assert open_runtime("onnxruntime_cpu", float_file, threads=1).proof_of_use().eligible == 3


def test_an_unknown_runtime_names_the_nearest(float_file):
    with pytest.raises(UnknownName, match="did you mean `onnxruntime_cpu`"):
        open_runtime("onnxruntime", float_file)


def test_a_runtime_that_cannot_run_here_says_why(float_file, monkeypatch):
    monkeypatch.setattr("kdeploy.runtimes.fake.Fake.unavailable", lambda: "no reason at all")
    with pytest.raises(Unavailable, match="no reason at all"):
        open_runtime("fake", float_file)


def test_a_format_that_the_runtime_does_not_open_names_those_that_do(tmp_path):
    with pytest.raises(ModelError, match=r"`fake`.*`torch_eager`"):
        open_runtime("onnxruntime_cpu", tmp_path)


def test_a_missing_file_is_told_before_anything_opens(tmp_path):
    with pytest.raises(FileMissing):
        open_runtime("fake", tmp_path / "gone.onnx")


def test_formats_are_told_by_folder_and_suffix(tmp_path):
    names = ("a.onnx", "a.engine", "a.plan", "a.bin")
    assert [format_of(tmp_path / n) for n in names] == ["onnx", "engine", "engine", "onnx"]
    assert format_of(tmp_path) == "torch"
