from __future__ import annotations

import pytest

from kdeploy.bench.plan import BenchPlan
from kdeploy.errors import FileMissing, ModelError, RecipeError, Unavailable, UnknownName
from kdeploy.registry import check
from kdeploy.runtimes.run import device_of, format_of, named, open_runtime, states


def bench_plan(given):
    return check(BenchPlan, given, where="bench")


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


def test_options_are_named_behind_a_colon_and_the_others_keep_their_defaults():
    technique, options = named("torch_cuda:precision=fp16, cuda_graph=true")
    assert technique.name == "torch_cuda"
    assert options == {"precision": "fp16", "cuda_graph": True, "channels_last": False}
    assert named("torch_cuda")[1]["precision"] == "fp32"
    assert device_of("torch_cuda:precision=fp16") == "cuda"


WRONG_OPTIONS = {
    "torch_cuda:precison=fp16": (UnknownName, "precision"),
    "torch_cuda:threads=2": (UnknownName, "threads"),
    "torch_cuda:precision=fp8": (RecipeError, "fp8"),
    "torch_cuda:cuda_graph=maybe": (RecipeError, "cuda_graph"),
    "torch_cuda:precision": (RecipeError, "torch_cuda:precision=value"),
    "torch_cuda:precision=": (RecipeError, "torch_cuda:precision=value"),
    "onnxruntime_cpu:precision=fp16": (UnknownName, "precision"),
    "torch_cud:precision=fp16": (UnknownName, "torch_cuda"),
}


@pytest.mark.parametrize("text", WRONG_OPTIONS)
def test_a_wrong_option_is_one_error_that_names_it_and_a_hint(text):
    kind, said = WRONG_OPTIONS[text]
    with pytest.raises(kind) as caught:
        named(text)
    assert said in f"{caught.value.message} {caught.value.hint}"
    assert caught.value.hint


@pytest.mark.parametrize("text", WRONG_OPTIONS)
def test_a_recipe_with_a_wrong_option_is_refused_before_anything_runs(text):
    with pytest.raises(WRONG_OPTIONS[text][0]):
        bench_plan({"runtimes": ["onnxruntime_cpu", text]})


@pytest.mark.parametrize("text", ["torch_cuda:precison=fp16", "torch_cuda:precision"])
def test_the_command_line_refuses_a_wrong_option(text, float_file, tmp_path, capsys):
    from kdeploy.cli import main

    out = tmp_path / "out"
    with pytest.raises(SystemExit) as left:
        main(["bench", str(float_file), "--runtime", text, "--out", str(out)])
    said = capsys.readouterr().err
    assert left.value.code == 2, said
    assert text.split("=")[0] in said
    assert said.count("hint:") == 1
    assert not out.exists()
