"""The commands as functions, on a module and arrays of this process."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import kdeploy
from kdeploy.cli import main
from kdeploy.errors import GateFailed, InputError, ModelError, RecipeError, UnknownName
from tests.conftest import TINY_BUILD
from tests.tiny.language import write_llama

TRAINING = {"epochs": 1, "batch_size": 32, "learning_rate": 0.05}


class Own(nn.Module):
    """Nobody else knows its code."""

    def __init__(self, width=8):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 4),
        )  # fmt: skip

    def forward(self, x):
        return self.net(x)


@pytest.fixture(scope="module")
def data(tiny_data):
    parts = {name: getattr(tiny_data, name) for name in ("train", "validation", "test")}
    return kdeploy.Data(**{name: (part.x, part.y) for name, part in parts.items()})


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return Own(16).eval()


@pytest.fixture(scope="module")
def student(data, teacher):
    torch.manual_seed(1)
    own = Own(8)
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    made = kdeploy.distill(own, teacher=teacher, data=data, losses=["kd"], **TRAINING)
    assert all(torch.equal(before[name], tensor) for name, tensor in own.state_dict().items())
    return made


@pytest.fixture(scope="module")
def file(student):
    int8 = kdeploy.compress(student, "int8_ptq", calibration_batches=1)
    return kdeploy.export(int8)


def test_a_student_is_a_module_that_has_learned(student):
    assert isinstance(student.module, Own)
    assert not student.module.training
    assert student.facts["parameters"] == sum(p.numel() for p in student.module.parameters())
    assert f"student {student.id}" in repr(student)
    assert isinstance(kdeploy.load(student.id), Own)


def test_the_same_step_is_not_made_twice(student, data, teacher):
    torch.manual_seed(1)
    again = kdeploy.distill(Own(8), teacher=teacher, data=data, losses=["kd"], **TRAINING)
    assert (again.id, again.folder) == (student.id, student.folder)


def test_compression_knows_the_data_and_recovers(student):
    small = kdeploy.compress(student, "prune_channels", ratio=0.5, recover=TRAINING)
    assert small.facts["parameters"] < student.facts["parameters"]
    assert small.module(torch.zeros(1, 1, 12, 12)).shape == (1, 4)


def test_a_file_is_measured_beside_a_module(file, teacher, tmp_path):
    table = kdeploy.bench(
        [teacher, file], baseline=teacher, runtimes=["onnxruntime_cpu"], threads=[1],
        minimum_seconds=0.02, minimum_count=16, gates=["size: <= 1MB"],
    )  # fmt: skip
    assert set(table.frame["label"]) == {"teacher", "int8_ptq"}
    assert table.passed
    assert "latency.p50" in {ratio["metric"] for ratio in table.ratios}
    assert "<table" in table._repr_html_()
    assert "int8_ptq" in str(table)
    assert "int8_ptq" in table.report(tmp_path / "deep" / "report.md").read_text()


def test_a_file_goes_where_it_is_asked_for(student, tmp_path):
    file = kdeploy.export(student, "onnx", out=tmp_path / "deep" / "own.onnx")
    assert Path(file) == file.path == tmp_path / "deep" / "own.onnx"
    assert file.size_bytes == file.path.stat().st_size
    assert file.parity["parity.agreement"] == 1
    answers = kdeploy.load(file.path)(torch.zeros(2, 1, 12, 12))
    torch.testing.assert_close(
        answers, student.module(torch.zeros(2, 1, 12, 12)), atol=1e-4, rtol=0
    )


def test_a_bundle_is_proven_and_one_over_its_budget_not_kept(file, tmp_path):
    chosen = ["triton", {"c_header": {"alignment": 32}}]
    result = kdeploy.package(file, tmp_path / "bundle", budgets=["size: <= 1MB"], emit=chosen)
    assert "deploy" in [check["check"] for check in result.checks]
    assert result.passed
    assert kdeploy.verify(tmp_path / "bundle").passed
    with pytest.raises(GateFailed, match=r"was not kept: .*size"):
        kdeploy.package(file, tmp_path / "small", budgets=["size: <= 1B"])
    assert not (tmp_path / "small").exists()


def test_a_model_with_a_reference_has_the_id_that_the_command_gives_it(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(TINY_BUILD, "build.py")
    parts = data.section()
    by_python = kdeploy.compress(
        kdeploy.load("build.py:net") and "build.py:net", "prune_channels", ratio=0.5,
        weights=_weights(), data=parts, out="runs/python",
    )  # fmt: skip
    listed = ",".join(f"{part}={parts[part]}" for part in ("train", "validation", "test"))
    command = ["compress", "prune_channels", "build.py:net", "--ratio", "0.5", "--weights", "w.pt"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--data", f"arrays:{listed}", "--out", "runs/command"])
    assert not ended.value.code
    assert (tmp_path / "runs" / "command" / "artifacts" / by_python.id).is_dir()
    assert isinstance(kdeploy.load(by_python.id), nn.Module)


def _weights():
    torch.manual_seed(3)
    torch.save(kdeploy.load("build.py:net").state_dict(), "w.pt")
    return "w.pt"


def test_a_pickled_module_is_refused_with_the_lines_that_convert_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(TINY_BUILD, "build.py")
    torch.save(nn.Linear(2, 2), "whole.pt")
    with pytest.raises(ModelError, match="a pickled") as caught:
        kdeploy.load("build.py:net", weights="whole.pt")
    assert "torch.save(model.state_dict(), " in caught.value.hint


def test_a_recipe_runs_with_live_objects(data, teacher, tmp_path):
    recipe = {
        "data": data, "teacher": teacher, "student": Own(4),
        "distill": TRAINING, "export": ["onnx"],
        "bench": {"runtimes": ["onnxruntime_cpu"], "minimum_seconds": 0.02, "minimum_count": 16},
    }  # fmt: skip
    run = kdeploy.run(recipe, out=tmp_path, overrides={"distill.epochs": 0, "bench.threads": [1]})
    assert run.student is not None
    assert [model.artifact.label for model in run.models] == ["teacher", "student"]
    assert {file.path.name for file in run.files} == {"teacher.onnx", "student.onnx"}
    assert run.summary["student"] == run.student.id
    assert "<table" in run._repr_html_()
    assert set(kdeploy.report(tmp_path).frame["label"]) == {"teacher", "student"}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda d: kdeploy.distill(Own(), teacher=Own(), data=d, epoch=3), UnknownName, "epoch"),
        (lambda d: kdeploy.distill(3, teacher=Own(), data=d), InputError, "a int stands for no"),
        (
            lambda d: kdeploy.distill(Own(), teacher=Own(), data=d, student_args={"width": 2}),
            RecipeError,
            "for a reference",
        ),
        (lambda d: kdeploy.compress(Own(), "int8", data=d), UnknownName, "int8"),
        (lambda d: kdeploy.compress(Own(), "int8_ptq"), RecipeError, "which data"),
        (lambda d: kdeploy.export(Own(), "onnx", data=d, opsets=18), UnknownName, "opset"),
        (lambda d: kdeploy.bench(Own(), data=d, runtime="x"), UnknownName, "runtime"),
        (lambda d: kdeploy.run({}, until="end"), UnknownName, "end"),
    ],
)
def test_wrong_calls_are_told_before_any_work(call, error, message, data):
    with pytest.raises(error, match=message) as caught:
        call(data)
    assert caught.value.hint
    assert isinstance(caught.value, kdeploy.KdeployError)


def test_arrays_alone_are_data_too(tiny_data):
    x, y = tiny_data.train.x.astype(np.float32), tiny_data.train.y
    assert kdeploy.compress(Own(8), "prune_channels", ratio=0.5, data=(x, y)).facts["parameters"]


def test_numbers_are_learned_compressed_and_measured_as_numbers(tmp_path):
    torch.manual_seed(0)
    x = torch.rand(200, 1, 6, 6)
    y = torch.stack([x.mean((1, 2, 3)), x.amax((1, 2, 3))], dim=1)
    data = kdeploy.Data(train=(x, y), task="regression")

    def network(width):
        layers = [nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(16 * width, 2)).eval()

    student = kdeploy.distill(network(4), teacher=network(8), data=data, epochs=2)
    int8 = kdeploy.compress(student, "int8_ptq")
    file = kdeploy.export(int8, "onnx", out=tmp_path / "numbers.onnx")
    table = kdeploy.bench([file], runtimes=["onnxruntime_cpu"], data=data, minimum_seconds=0.05)
    metrics = set(table.frame["metric"])
    assert {"regression.mae", "regression.r2"} <= metrics
    assert "accuracy.top1" not in metrics


def test_a_file_that_others_name_is_where_its_path_says(tmp_path):
    pytest.importorskip("transformers", reason="pip install 'kdeploy[language]'")
    pytest.importorskip("openvino", reason="pip install 'kdeploy[openvino]'")
    folder = write_llama(tmp_path / "llama")
    words = tmp_path / "words"
    words.mkdir()
    for number in range(32):
        (words / f"{number}.txt").write_text(f"{number} is a number, and so is {number + 1}. " * 2)
    data = {"name": "text", "train": str(words), "tokens": 16, "test_windows": 4}
    data["tokenizer"] = str(folder)
    file = kdeploy.export(
        f"transformers:{folder}", "openvino_stateful", data=data, out=tmp_path / "out"
    )
    assert file.path.name == "openvino_model.xml"
    assert file.size_bytes == sum(
        path.stat().st_size for path in file.path.parent.glob("openvino_model.*")
    )
