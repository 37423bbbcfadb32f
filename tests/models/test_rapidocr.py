"""The rendered text, the task and the program of models/rapidocr."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kdeploy.data.own_function import attribute_of, parts_of
from kdeploy.errors import MissingDependency, ModelError, Unavailable
from kdeploy.recipe.read import load

FOLDER = Path(__file__).parents[2] / "models" / "rapidocr"


def rendered(name, **parameters):
    try:
        return parts_of(f"rendering.py:{name}", parameters, folder=FOLDER)
    except Unavailable as error:
        pytest.skip(str(error))


def test_lines_are_as_asked_for_and_the_same_each_time():
    data, again = (rendered("lines", train=4, test=3, height=32, width=200) for _ in range(2))
    assert data.train.x.shape == (4, 3, 32, 200)
    assert np.array_equal(data.train.x, again.train.x)
    assert all(0 < len(text) <= 22 for text in data.train.y)
    ink = np.abs(
        data.test.x[:, 0].astype(int) - np.median(data.test.x[:, 0], axis=(1, 2), keepdims=True)
    )
    assert (ink.max(axis=(1, 2)) > 60).all()


def test_words_of_the_test_part_are_not_learned():
    data = rendered("lines", train=60, test=40, height=24, width=160)
    learned = {word for text in data.train.y for word in text.split()}
    assert not learned & {word for text in data.test.y for word in text.split()}


def test_masks_of_pages_lie_where_the_ink_is():
    data = rendered("pages", train=1, test=4, side=160)
    for pixels, mask in zip(data.test.x[:, 0], data.test.y, strict=True):
        inside = pixels[mask == 1].astype(float)
        assert inside.std() > 2 * pixels[mask == 0].astype(float).std()


def test_probabilities_are_text_from_the_threshold_on():
    task = attribute_of("probabilities.py:Probabilities", FOLDER, kind="class")(threshold=0.3)
    task._size = (1, 3)
    read = task.predictions(np.array([[[[0.2, 0.31, 0.9]]]], np.float32), None)
    assert read.tolist() == [[[0, 1, 1]]]


def test_the_alphabet_is_what_the_file_lists_and_a_space(tmp_path):
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [out])
    model = helper.make_model(graph)
    helper.set_model_props(model, {"character": "a\nb\nß"})
    onnx.save(model, tmp_path / "m.onnx")
    assert attribute_of("make.py:alphabet", FOLDER)(tmp_path / "m.onnx") == "abß "


def test_a_missing_package_and_another_file_are_told(tmp_path, monkeypatch):
    file_of = attribute_of("make.py:file_of", FOLDER)
    monkeypatch.setitem(file_of.__globals__, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency) as caught:
        file_of("detector")
    assert "rapidocr==3.10.0" in caught.value.hint

    class Found:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setitem(file_of.__globals__, "find_spec", lambda name: Found)
    with pytest.raises(ModelError, match="its sha256 is not"):
        file_of("reader")


@pytest.mark.parametrize("recipe", ["detector", "reader"])
def test_recipes_resolve(recipe, tmp_path):
    file = tmp_path / "m.onnx"
    file.write_bytes(b"")
    assert load(FOLDER / f"{recipe}.yaml", [f"teacher.build=onnx:{file}"]).teacher.is_file
