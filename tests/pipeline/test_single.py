"""One stage by itself: what is refused before anything is written."""

from __future__ import annotations

import pytest

from kdeploy.errors import Unavailable
from kdeploy.pipeline.log import Silence
from kdeploy.pipeline.single import Source, export_one
from kdeploy.recipe.resolve import Step


def test_what_nothing_here_could_prove_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "kdeploy.runtimes.tensorrt.Tensorrt.unavailable", staticmethod(lambda: "no GPU: buy one")
    )
    step = Step(technique="tensorrt", parameters={})
    with pytest.raises(Unavailable, match="no GPU: buy one"):
        export_one(Source(reference="onnx:absent.onnx"), step, tmp_path / "out", Silence())
    assert list(tmp_path.iterdir()) == []
