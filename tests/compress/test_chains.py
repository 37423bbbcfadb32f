"""Chains of steps: each takes what another left, and the store gives back the same to the bit."""

import dataclasses

import pytest
import torch

from kdeploy.compress.contract import CompressContext
from kdeploy.compress.run import compress
from kdeploy.errors import OrderError
from kdeploy.export.run import export
from kdeploy.recipe.resolve import check_order, step
from kdeploy.registry import find
from kdeploy.store.model_io import load_model
from tests.tiny.compressing import Trainer, stopwatch

PRUNE = {"prune_channels": {"target": {"macs": 0.7}, "round_to": 4}}
LOW_RANK = {"low_rank": {"rank_ratio": 0.5, "always": True}}
TUCKER = {"tucker": {"rank_ratio": 0.6, "always": True, "round_to": 4}}
TWO_FOUR = {"two_four": {"multiple": 4}}
UNSTRUCTURED = {"unstructured": {"sparsity": 0.4}}
PTQ = {"int8_ptq": {"calibration_batches": 2}}
QAT = {"int8_qat": {"epochs": 1}}
DYNAMIC = {"int8_dynamic": {}}
CHAINS = {
    "all in one": [PRUNE, LOW_RANK, TWO_FOUR, QAT],
    "tucker, then sparse": [TUCKER, UNSTRUCTURED, PTQ],
    "fewer layers": [{"drop_layers": {}}, PRUNE, PTQ],
    "low rank, then narrower": [LOW_RANK, PTQ],
    "dynamic": [PRUNE, UNSTRUCTURED, DYNAMIC],
}


@pytest.fixture
def context(tiny_data):
    return CompressContext(data=tiny_data, seed=2, train=Trainer(tiny_data), stopwatch=stopwatch)


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_is_the_same_through_the_store_and_can_be_exported(
    name, tiny_model, tiny_data, context, store_model, tmp_path
):
    direct = stored = tiny_model(width=16)
    for index, entry in enumerate(CHAINS[name]):
        [(technique, parameters)] = entry.items()
        fresh = dataclasses.replace(context, report={})
        direct = compress(direct, technique, parameters, fresh)
        folder = store_model(compress(stored, technique, parameters, context), name=str(index))
        stored = load_model(folder)
        assert torch.equal(direct(context.example), stored(context.example)), technique
        for earlier in CHAINS[name][: index + 1]:
            facts = find("compressor", next(iter(earlier))).load().facts
            if facts.get("sparse"):
                facts["ensures"](stored)
    result = export(stored, "onnx", {}, tiny_data, tmp_path / "model.onnx")
    assert result.size_bytes > 0


@pytest.mark.parametrize("name", CHAINS)
def test_its_order_is_allowed_and_the_reverse_is_not(name):
    steps = [step(entry, "compress") for entry in CHAINS[name]]
    check_order(steps)
    with pytest.raises(OrderError, match="cannot come after"):
        check_order(steps[::-1])
