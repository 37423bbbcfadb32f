"""A torch artefact that was changed and signed again: one error, before memory is spent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from kdeploy.errors import KdeployError
from kdeploy.store.artifact import open_artifact, write_manifest
from kdeploy.store.model_io import load_model
from kdeploy.store.references import ModelReference, build_model

TINY_BUILD = Path(__file__).parents[1] / "tiny" / "build.py"
KEPT = ("id", "kind", "label", "model", "data")


@pytest.fixture
def folder(store_model):
    return store_model(build_model(ModelReference(build=f"{TINY_BUILD}:net")))


def signed_again(folder, change):
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    write_manifest(folder, {key: manifest[key] for key in KEPT if key in manifest})


def linear(features):
    return {"type": "Linear", "arguments": {"in_features": features, "out_features": features}}


def test_an_untouched_artefact_loads(folder):
    assert load_model(folder)(torch.zeros(2, 1, 12, 12)).shape == (2, 4)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("model"),
        lambda m: m.update(model=None),
        lambda m: m["model"].update(build=7),
        lambda m: m["model"].update(args=[1]),
        lambda m: m["model"].update(args={"width": "wide"}),
        lambda m: m["model"].update(folder=None),
        lambda m: m["model"].update(edits="none"),
        lambda m: m["model"].update(edits=[3]),
        lambda m: m["model"].update(edits=[{"path": 3, "remove": True}]),
        lambda m: m["model"].update(edits=[{"path": "fc", "tensors": "weight"}]),
        lambda m: m["model"].update(edits=[{"path": "fc", "tensors": {"weight": {"shape": 5}}}]),
        lambda m: m["model"].update(edits=[{"path": "fc", "replace": {"type": "Linear"}}]),
        lambda m: m["model"].update(edits=[{"path": "fc", "replace": linear(2**20)}]),
        lambda m: m["model"].update(edits=[{"path": "fc", "replace": linear(2**62)}]),
        lambda m: m["model"].update(edits=[{"path": "", "same_as": "nowhere"}]),
        lambda m: m["model"].update(wrapper="fake"),
        lambda m: m["model"].update(wrapper={"name": "nothing", "state": {}}),
        lambda m: m["model"].update(wrapper={"name": "fake_quant", "state": {"a": 1}}),
        lambda m: m["data"]["preprocessing"].update(colour="red"),
        lambda m: m["data"]["preprocessing"].update(shape=None),
        lambda m: m["data"]["preprocessing"].pop("shape"),
    ],
)
def test_what_a_signed_manifest_says_wrong_is_one_error_with_a_hint(folder, change):
    signed_again(folder, change)
    with pytest.raises(KdeployError) as caught:
        load_model(open_artifact(folder))
    assert caught.value.hint
    assert caught.value.exit_code == 2
    assert len(caught.value.message) < 1000


def test_weights_that_are_no_safetensors_are_one_error(folder):
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)
    signed_again(folder, lambda m: None)
    with pytest.raises(KdeployError, match="cannot be rebuilt"):
        load_model(folder)
