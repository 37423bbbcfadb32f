"""How a student learns, resolved: the scheme's further models and files, checked and absolute."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdeploy.distill.config import DistillConfig
from kdeploy.errors import FileMissing, RecipeError, UnknownName
from kdeploy.recipe.read import load, to_yaml
from kdeploy.recipe.resolve import parse

MINIMAL = {"data": {"name": "digits"}, "teacher": {"build": "build.py:net", "train": {"epochs": 1}}}
STUDENT = {"student": {"build": "build.py:net"}, "distill": {"epochs": 2}}


def test_further_models_of_a_scheme_have_absolute_files(tmp_path):
    (tmp_path / "build.py").write_text("def net(): ...")
    (tmp_path / "w.safetensors").write_text("")
    entry = {"build": "build.py:net", "args": {"width": 3}, "weights": "w.safetensors"}
    distill = {"scheme": {"ensemble": {"teachers": [entry, {"build": "timm:resnet18"}]}}}
    recipe = parse({**MINIMAL, **STUDENT, "distill": distill}, folder=tmp_path)
    first, second = recipe.distill.scheme_parameters["teachers"]
    assert first["build"] == str(tmp_path / "build.py:net")
    assert first["weights"] == tmp_path / "w.safetensors"
    assert second == {"build": "timm:resnet18", "args": {}, "weights": None}
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "recipe.yaml").write_text(to_yaml(recipe))
    assert load(tmp_path / "elsewhere" / "recipe.yaml").distill == recipe.distill


@pytest.mark.parametrize(
    ("scheme", "error", "message"),
    [
        ({"ensemble": {"teachers": [{"build": "b.py:f", "weight": 1}]}}, RecipeError, "weight"),
        ({"ensemble": {"teachers": [{"args": {}}]}}, RecipeError, "build"),
        (
            {"ensemble": {"teachers": [{"build": "b.py:f", "weights": "no.safetensors"}]}},
            FileMissing,
            r"teachers\[0\]\.weights: there is no .*no\.safetensors",
        ),
        ({"unlabelled": {"extra": "nowhere"}}, FileMissing, r"unlabelled\.extra"),
        ({"ensemble": {"teacher": []}}, UnknownName, "teacher"),
    ],
)
def test_refuses_further_models_that_cannot_be(scheme, error, message):
    with pytest.raises(error, match=message) as caught:
        parse({**MINIMAL, **STUDENT, "distill": {"scheme": scheme}}, folder=Path())
    assert caught.value.hint


def test_answers_are_kept_in_one_way_and_ids_stay_where_none_is_named():
    with pytest.raises(RecipeError, match="two ways"):
        DistillConfig(cache_top_k=4, cache_samples=4)
    assert "cache_samples" not in DistillConfig().identity()
    assert DistillConfig(cache_samples=4).identity()["cache_samples"] == 4


@pytest.mark.parametrize("scheme", ["unlabelled", {"unlabelled": {}}])
@pytest.mark.parametrize("beside", [{}, {"learning_rate": 0.1}, {"schedule": "constant"}])
def test_where_no_label_is_read_none_chooses_the_epoch(scheme, beside):
    usual = DistillConfig(losses=[{"kd": {}}], scheme=scheme, **beside)
    assert usual.keep == "last"
    asked = DistillConfig(losses=[{"kd": {}}], scheme=scheme, keep="best", **beside)
    assert asked.keep == "best"
    read = DistillConfig(losses=[{"kd": {}}], **beside)
    assert read.keep == ("best" if "learning_rate" in beside else None)
