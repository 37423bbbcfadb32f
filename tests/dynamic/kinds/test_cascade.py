"""A cascade: the files of classifiers, the smallest first."""

from __future__ import annotations

import pytest

from kdeploy.dynamic.contract import DynamicContext
from kdeploy.dynamic.kinds.cascade import cascade
from kdeploy.errors import ModelError, UnknownName
from tests.tiny.dynamic import weights, write_linear


@pytest.fixture
def context(tmp_path):
    files = {
        "student": write_linear(tmp_path / "s.onnx", weights(1)),
        "teacher": write_linear(tmp_path / "t.onnx", weights(2), taken="items", given="scores"),
        "other": write_linear(tmp_path / "o.onnx", weights(3)[:, :2]),
    }
    return DynamicContext(files=files)


def test_its_parts_take_the_same_item(context, tmp_path):
    path = tmp_path / "made.dynamic"
    parts = cascade(context, path)
    assert [p.label for p in parts] == ["student", "teacher"]
    assert [p.takes for p in parts] == [{"x": "x"}, {"items": "x"}]
    assert [p.logits for p in parts] == ["logits", "scores"]
    assert (tmp_path / "made.part-1.onnx").read_bytes() == (tmp_path / "t.onnx").read_bytes()


def test_other_classes_are_refused(context, tmp_path):
    with pytest.raises(ModelError, match=r"o\.onnx has") as caught:
        cascade(context, tmp_path / "made.dynamic", parts=("student", "other"))
    assert "same classes" in caught.value.hint


def test_a_name_that_no_file_has_is_refused(context, tmp_path):
    with pytest.raises(UnknownName, match="no file to make a cascade of `techer`") as caught:
        cascade(context, tmp_path / "made.dynamic", parts=("student", "techer"))
    assert "teacher" in caught.value.hint


@pytest.mark.parametrize("parts", [(), ("student",), ("student", "student")])
def test_fewer_than_two_models_are_no_cascade(context, tmp_path, parts):
    with pytest.raises(ModelError, match="is none"):
        cascade(context, tmp_path / "made.dynamic", parts=parts)
