"""Tucker-2 as a step."""

import pytest
import torch
from torch import nn

from kdeploy.compress.compressors.tucker import tucker
from kdeploy.compress.contract import CompressContext
from kdeploy.compress.run import compress
from kdeploy.low_rank.invariants import factorised
from kdeploy.store.model_io import load_model
from kdeploy.torch_module.complexity import count_macs, count_parameters


@pytest.fixture
def context(tiny_data):
    def counting(models, example, timing):
        return [float(count_parameters(model)) for model in models]

    return CompressContext(data=tiny_data, stopwatch=counting)


@pytest.fixture
def model(tiny_model):
    return tiny_model(width=16)


def test_a_convolution_becomes_three(model, context):
    small = compress(model, "tucker", {"rank_ratio": 0.5}, context)
    layers = dict(small.blocks[1].conv2.named_children())
    shapes = {name: tuple(layer.weight.shape) for name, layer in layers.items()}
    assert shapes == {
        "reduce": (16, 32, 1, 1),
        "core": (16, 16, 3, 3),
        "expand": (32, 16, 1, 1),
    }
    row = next(r for r in context.report["replaced"] if r["layer"] == "blocks.1.conv2")
    assert (row["rank"], row["full_rank"]) == ("16x16", "32x32")


def test_layers_without_a_kernel_are_declined(model, context):
    tucker(model, context, rank_ratio=0.5)
    reasons = {row["layer"]: row["reason"] for row in context.report["declined"]}
    assert reasons["head"] == "a linear layer has no kernel; `low_rank` takes it"
    assert reasons["blocks.1.shortcut"] == "a 1x1 kernel is a matrix; `low_rank` takes it"


def test_a_stem_of_one_channel_has_no_reducing_layer(model, context):
    small = tucker(model, context, rank_ratio=0.25, round_to=4, always=True)
    assert [name for name, _ in small.stem.named_children()] == ["core", "expand"]


@pytest.mark.parametrize("whiten", [False, True])
def test_a_budget_is_reached_by_all_layers_together(model, context, whiten):
    small = tucker(model, context, target={"macs": 0.5}, round_to=1, whiten=whiten)
    assert 0.4 < count_macs(small, context.example) / count_macs(model, context.example) <= 0.5


def test_iterations_keep_more_energy(model, context):
    energies = []
    for iterations in (0, 10):
        tucker(model, context, rank_ratio=0.25, round_to=1, always=True, iterations=iterations)
        energies.append(sum(row["energy_kept"] for row in context.report["replaced"]))
    assert energies[1] > energies[0]


def test_vbmf_finds_the_ranks_that_a_kernel_was_made_of(context):
    numbers = torch.Generator().manual_seed(0)
    core, outputs, inputs = (
        torch.randn(shape, generator=numbers) for shape in ((6, 4, 3, 3), (48, 6), (40, 4))
    )
    conv = nn.Conv2d(40, 48, 3)
    with torch.no_grad():
        kernel = torch.einsum("pqyx,op,iq->oiyx", core, outputs, inputs)
        conv.weight.copy_(kernel + 0.05 * torch.randn(kernel.shape, generator=numbers))
    model = nn.Sequential(nn.Conv2d(1, 40, 1), conv, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    tucker(model, context, vbmf=True, round_to=1, whiten=False)
    assert {row["layer"]: row["rank"] for row in context.report["replaced"]} == {"1": "4x6"}


@pytest.mark.parametrize(
    "then",
    [
        ("prune_channels", {"ratio": 0.3, "round_to": 2}),
        ("low_rank", {"rank_ratio": 0.5, "round_to": 1, "always": True}),
    ],
)
def test_the_store_gives_it_back_bit_by_bit(model, context, store_model, then):
    small = compress(model, "tucker", {"rank_ratio": 0.5}, context)
    assert len(list(factorised(small))) > 0
    small = compress(small, *then, context)
    loaded = load_model(store_model(small, width=16))
    assert torch.equal(loaded(context.example), small(context.example))
