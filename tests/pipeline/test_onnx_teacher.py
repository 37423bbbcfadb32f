"""A teacher that is only an ONNX file teaches, is measured and is never trained."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from kdeploy.errors import FileMissing, ModelError, RecipeError, UnknownName
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.pipeline.run import run
from kdeploy.recipe.read import load
from kdeploy.store.references import ModelReference, build_model
from tests.conftest import TINY_BUILD

RECIPE = {
    "data": {"name": "digits", "size": 12},
    "teacher": {"build": "onnx:teacher.onnx"},
    "student": {"build": f"{TINY_BUILD}:net", "args": {"width": 4, "classes": 10}},
    "distill": {"epochs": 1, "batch_size": 256, "losses": [{"kd": {}}]},
    "bench": {"minimum_seconds": 0.01, "minimum_count": 3, "runtimes": ["onnxruntime_cpu"]},
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    reference = ModelReference(build=f"{TINY_BUILD}:net", args={"width": 6, "classes": 10})
    return build_model(reference).eval()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """Return a folder with the teacher as a file."""
    folder = tmp_path_factory.mktemp("onnx")
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 1, 12, 12),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    program.save(folder / "teacher.onnx")
    return folder


def recipe(folder, **changes):
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, **changes}))
    return load(folder / "recipe.yaml")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_answers_like_the_model_it_was_made_of(model, folder):
    x = torch.rand(5, 1, 12, 12)
    teacher = OnnxModel(folder / "teacher.onnx")
    assert torch.allclose(teacher(x), model(x), atol=1e-5)
    assert not list(teacher.parameters())


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_teaches_a_student_and_is_measured_beside_it(folder, tmp_path):
    result = run(recipe(folder), tmp_path)
    assert result.teacher.kind == "onnx"
    summary = json.loads((tmp_path / "summary.json").read_text())
    measured = {r.artifact for r in result.records if r.metric == "latency.p50" and r.value}
    assert measured == {summary["teacher"], summary["student"]}
    assert summary["teacher"] != summary["student"]
    again = run(load(tmp_path / "recipe.yaml"), tmp_path)
    assert all(stage["cached"] for stage in again.summary["stages"])


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"teacher": {"build": "onnx:none.onnx"}}, FileMissing, "no ONNX file"),
        ({"teacher": {"build": "onnx:recipe.yaml"}}, ModelError, "is not an ONNX file"),
        (
            {"teacher": {"build": "onnx:teacher.onnx", "train": {"epochs": 1}}},
            RecipeError,
            "cannot be trained",
        ),
        (
            {"student": None, "distill": None, "compress": [{"prune_channels": {}}]},
            RecipeError,
            r"compress\[0\]: `prune_channels` needs a torch model",
        ),
        (
            {"student": None, "distill": None, "compress": [{"int8_ptq": {"recover": {}}}]},
            RecipeError,
            "cannot be trained",
        ),
        (
            {"distill": {"losses": [{"hints": {"layers": {"blocks.0": "blocks.0"}}}]}},
            UnknownName,
            "no layer of the teacher `blocks.0`",
        ),
    ],
)
def test_refuses_what_a_file_cannot_do(changes, error, message, folder, tmp_path):
    with pytest.raises(error, match=message):
        run(recipe(folder, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()
