"""Every kind of compression on models of several inputs: it runs, and is called as before."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdeploy.compress.contract import CompressContext
from kdeploy.compress.run import compress
from kdeploy.data.load import DataReference, load
from kdeploy.torch_module.named_inputs import call
from tests.tiny.two_inputs import masked, masked_items, pictured, pictured_items

KINDS = {"image and vector": (pictured_items, pictured), "ids and mask": (masked_items, masked)}
STEPS = {
    "prune_channels by taylor": ("prune_channels", {"importance": "taylor", "ratio": 0.5}),
    "low_rank": ("low_rank", {}),
    "two_four": ("two_four", {}),
    "unstructured": ("unstructured", {}),
    "int8_ptq": ("int8_ptq", {"calibration_batches": 2, "equalize": True}),
    "int8_qat": ("int8_qat", {"calibration_batches": 2}),
    "int8_dynamic": ("int8_dynamic", {}),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request, tmp_path_factory):
    items, build = KINDS[request.param]
    folder = tmp_path_factory.mktemp("data")
    for part, count in (("train", 128), ("test", 32)):
        np.savez(folder / f"{part}.npz", **items(count))
    files = {part: str(folder / f"{part}.npz") for part in ("train", "test")}
    data = load(DataReference(name="arrays", parameters=files))
    return build, CompressContext(data=data, train=lambda model, teacher, training: None)


@pytest.mark.parametrize("step", STEPS)
def test_a_step_leaves_a_model_that_answers_by_name(kind, step):
    build, context = kind
    torch.manual_seed(0)
    model = build(16).eval()
    technique, parameters = STEPS[step]
    with torch.no_grad():
        whole, small = (
            call(one, context.example)
            for one in (model, compress(model, technique, parameters, context))
        )
    assert small.shape == whole.shape
    if technique.startswith("int8"):
        assert 0 < float((whole - small).abs().max()) < 0.3 * float(whole.abs().max())
