"""A runtime that dies of a file is an error with a way out, and kdeploy goes on."""

from __future__ import annotations

import pytest

from kdeploy.errors import ModelError
from kdeploy.export.opening import check_that_it_opens
from kdeploy.export.run import export


def test_a_death_at_opening_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "kdeploy.export.opening.OPEN", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    )
    with pytest.raises(ModelError, match=r"m\.onnx: `fake` ended its process \(SIGSEGV\)"):
        check_that_it_opens(tmp_path / "m.onnx", "fake", name="m.onnx")


def test_an_error_is_left_to_whoever_opens_the_file(tmp_path):
    check_that_it_opens(tmp_path / "missing.onnx", "onnxruntime_cpu", name="m.onnx")


def test_the_hint_helps_where_an_attention_stands_behind_a_convolution(network, tmp_path):
    """ONNX Runtime 1.31's layout optimiser dies of it without."""
    model, items = network("attending")
    path = tmp_path / "m.onnx"
    export(model, "onnx_fp16", {"keep_float32": ("Transpose",)}, items, path)
    assert path.is_file()
