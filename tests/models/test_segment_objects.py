"""The networks of models/segment_objects."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from kdeploy.store.references import ModelReference, build_model

FOLDER = Path(__file__).parents[2] / "models" / "segment_objects"
PARAMETERS = {"segmenter": 248_631, "separable": 24_539}


def network(name, **args):
    return build_model(ModelReference(build=f"build.py:{name}", args=args, folder=FOLDER)).eval()


def test_the_networks_have_the_sizes_of_the_card_and_a_class_for_each_pixel():
    for name, parameters in PARAMETERS.items():
        model = network(name)
        assert sum(p.numel() for p in model.parameters()) == parameters
        assert f"{parameters:,}".replace(",", " ") in (FOLDER / "card.md").read_text()
        with torch.no_grad():
            assert model(torch.zeros(2, 3, 48, 32)).shape == (2, 11, 48, 32)
    assert PARAMETERS["segmenter"] > 10 * PARAMETERS["separable"]


def test_the_shipped_weights_are_those_of_the_teacher():
    weights = load_file(FOLDER / "teacher.safetensors")
    shapes = {name: tensor.shape for name, tensor in network("segmenter").state_dict().items()}
    assert {name: tensor.shape for name, tensor in weights.items()} == shapes
    assert all(tensor.isfinite().all() for tensor in weights.values())
