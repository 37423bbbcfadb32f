from __future__ import annotations

import numpy as np
import pytest

from kdeploy.errors import FileMissing, ModelError
from kdeploy.export.exporters.ort_format_from_onnx import ort_format_from_onnx
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.runtimes.files import inputs_of, outputs_of
from kdeploy.runtimes.ort_format import OrtFormat


@pytest.fixture
def path(float_file, tmp_path):
    ort_format_from_onnx(OnnxModel(float_file), None, tmp_path / "m.ort")
    return tmp_path / "m.ort"


def test_says_what_it_takes_and_gives(path):
    assert [str(i) for i in inputs_of(path, "ort_format")] == ["x=batch,3,8,8:float32"]
    assert [str(o) for o in outputs_of(path, "ort_format")] == ["y=batch,5:float32"]


def test_takes_the_threads_that_it_is_given(path):
    opened = OrtFormat(threads=2)
    opened.open(path)
    assert opened.proof_of_use().settings["intra_op_num_threads"] == 2


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 2000])
def test_a_file_that_was_cut_is_one_error_with_a_hint(path, kept):
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"m\.ort") as caught:
        OrtFormat(threads=1).open(path)
    assert "export" in caught.value.hint


def test_a_file_that_is_not_there_is_missing(tmp_path):
    with pytest.raises(FileMissing):
        OrtFormat.inputs_of(tmp_path / "none.ort")


def test_a_wrong_shape_names_both_shapes(path):
    opened = OrtFormat(threads=1)
    opened.open(path)
    with pytest.raises(ModelError, match=r"\[1, 4, 8, 8\].*'batch', 3, 8, 8"):
        opened.infer(np.zeros((1, 4, 8, 8), np.float32))
