"""One stage by itself: what is refused before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdeploy.errors import RecipeError, Unavailable
from kdeploy.pipeline.log import NullListener
from kdeploy.pipeline.single import Source, export_one
from kdeploy.recipe.resolve import Step


def test_what_nothing_here_could_prove_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "kdeploy.runtimes.tensorrt.Tensorrt.unavailable", staticmethod(lambda: "no GPU: buy one")
    )
    step = Step(technique="tensorrt", parameters={})
    with pytest.raises(Unavailable, match="no GPU: buy one"):
        export_one(Source(reference="onnx:absent.onnx"), step, tmp_path / "out", NullListener())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "option"),
    [({"weights": Path("w.pt")}, "--weights"), ({"as_built": True}, "--as-built")],
)
def test_what_an_artefact_has_itself_is_refused_not_passed_over(given, option, finished, tmp_path):
    step = Step(technique="onnx", parameters={})
    source = Source(reference=str(finished.student.folder), **given)
    with pytest.raises(RecipeError, match=f"artefact `student`.*`{option}` would have no effect"):
        export_one(source, step, tmp_path / "out", NullListener())
    assert not (tmp_path / "out").exists()


def test_weights_for_a_teacher_that_is_an_artefact_are_refused(run_project, finished, project):
    (project / "w.pt").write_bytes(b"never read")
    with pytest.raises(RecipeError, match="is an artefact and has its weights"):
        run_project(f"teacher={{build: {finished.teacher.folder}, weights: w.pt}}")
