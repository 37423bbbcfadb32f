"""What a `.dynamic` file says, and how a wrong one is refused."""

from __future__ import annotations

import json

import pytest

from kdeploy.errors import FileMissing, ModelError
from kdeploy.runtimes.dynamic_file import (
    dynamic_files,
    dynamic_inputs,
    dynamic_outputs,
    dynamic_parameters,
    read_dynamic,
)
from kdeploy.runtimes.files import files_of, format_of, inputs_of, parameters_of
from tests.tiny.dynamic import CLASSES, FEATURES, write_cascade


@pytest.fixture
def path(tmp_path):
    write_cascade(tmp_path / "a.b.dynamic")
    return tmp_path / "a.b.dynamic"


def test_says_what_the_whole_takes_and_gives(path):
    (taken,), (given,) = dynamic_inputs(path), dynamic_outputs(path)
    assert (taken.name, taken.shape[1:], given.name, given.shape[1:]) == (
        "x",
        (FEATURES,),
        "logits",
        (CLASSES,),
    )
    assert dynamic_parameters(path) == 2 * FEATURES * CLASSES


def test_its_format_knows_it(path):
    assert format_of(path) == "dynamic"
    assert files_of(path) == dynamic_files(path)
    assert [f.name for f in files_of(path)] == [
        "a.b.dynamic",
        "a.b.part-0.onnx",
        "a.b.part-1.onnx",
    ]
    assert inputs_of(path, "dynamic") == dynamic_inputs(path)
    assert parameters_of(path, "dynamic") == dynamic_parameters(path)


def test_a_missing_part_is_told(path):
    path.with_suffix(".part-1.onnx").unlink()
    with pytest.raises(FileMissing, match=r"2 parts, and there is no a\.b\.part-1\.onnx"):
        read_dynamic(path)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("format",), "other"),
        (("version",), 2),
        (("score",), "entropy"),
        (("parts",), []),
        (("kind",), None),
        (("calibration",), 3),
        (("parts", 0, "threshold"), 1.5),
        (("parts", 0, "threshold"), None),
        (("parts", 1, "threshold"), 0.5),
        (("parts", 0, "temperature"), 0),
        (("parts", 0, "takes"), {"x": 1}),
        (("parts", 1, "logits"), ""),
        (("parts", 1, "label"), "l" * 2000),
    ],
)
def test_a_wrong_value_is_refused_with_a_hint(path, place, value):
    told = inner = json.loads(path.read_text())
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(json.dumps(told))
    with pytest.raises(ModelError) as caught:
        read_dynamic(path)
    assert caught.value.hint


@pytest.mark.parametrize("content", ["", "[]", "{", "null"])
def test_what_is_no_document_is_refused(path, content):
    path.write_text(content)
    with pytest.raises(ModelError):
        read_dynamic(path)
