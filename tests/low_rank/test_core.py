"""Three layers in the place of a convolution."""

import pytest
import torch
from torch import nn

from kdeploy.low_rank.core import core_of
from kdeploy.torch_module.input_gram import input_grams

# Even kernels with padding on both sides, of which torch says that they are slow.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")
LAYERS = {
    "3x3": (nn.Conv2d(5, 6, 3, padding=1), (2, 5, 9, 8)),
    "strides": (nn.Conv2d(5, 6, (3, 5), (2, 3), (1, 2), bias=False), (2, 5, 9, 11)),
    "dilation": (nn.Conv2d(4, 6, 3, dilation=(2, 3)), (2, 4, 9, 11)),
    "same": (nn.Conv2d(4, 6, (4, 3), padding="same"), (2, 4, 9, 11)),
    "reflect": (nn.Conv2d(4, 6, 3, 2, 1, padding_mode="reflect"), (2, 4, 9, 11)),
    "1d": (nn.Conv1d(4, 6, 5, 2, 2, dilation=2), (2, 4, 19)),
}


@pytest.mark.parametrize("is_whitened", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_a_kernel_of_these_ranks_is_reproduced(name, is_whitened):
    layer, shape = LAYERS[name]
    layer.reset_parameters()  # drawn with the test's seed
    x, numbers = torch.randn(shape), torch.Generator().manual_seed(0)
    with torch.no_grad():
        few = torch.randn(3, 2, *layer.weight.shape[2:], generator=numbers)
        outputs = torch.randn(len(layer.weight), 3, generator=numbers)
        inputs = torch.randn(layer.in_channels, 2, generator=numbers)
        layer.weight.copy_(torch.einsum("pq...,op,iq->oi...", few, outputs, inputs))
    gram = input_grams(layer, [x], [""])[""][0] if is_whitened else None
    core = core_of(layer, iterations=2, gram=gram)
    for ranks in ((2, 3), (2, layer.out_channels), (layer.in_channels, 3), core.full):
        factors = core.layers(ranks)
        torch.testing.assert_close(factors(x), layer(x), rtol=1e-4, atol=1e-4)
        assert core.energy(ranks) == pytest.approx(1)


@pytest.mark.parametrize(
    ("ranks", "names"),
    [
        ((2, 3), ["reduce", "core", "expand"]),
        ((5, 3), ["core", "expand"]),
        ((2, 6), ["reduce", "core"]),
    ],
)
def test_a_full_rank_needs_no_layer_of_its_own(ranks, names):
    core = core_of(nn.Conv2d(5, 6, 3), iterations=1)
    layers = core.layers(ranks)
    assert [name for name, _ in layers.named_children()] == names
    assert [layer.bias is not None for layer in layers] == [name == names[-1] for name in names]


def test_whitened_factors_err_less_on_correlated_inputs():
    layer = nn.Conv2d(8, 12, 3, padding=1)
    x = torch.einsum("nqhw,qi->nihw", torch.randn(16, 2, 6, 6), torch.randn(2, 8))
    x += 0.1 * torch.randn(x.shape)
    gram = input_grams(layer, [x], [""])[""][0]
    errors = []
    for given in (gram, None):
        factors = core_of(layer, iterations=10, gram=given).layers((3, 10))
        errors.append((factors(x) - layer(x)).square().sum().item())
    assert errors[0] < 0.7 * errors[1]


def test_the_energy_kept_is_that_of_the_product():
    layer = nn.Conv2d(5, 6, 3)
    core = core_of(layer, iterations=4)
    reduce, middle, expand = core.layers((2, 3))
    product = torch.einsum(
        "qi,pqyx,op->oiyx", reduce.weight[..., 0, 0], middle.weight, expand.weight[..., 0, 0]
    )
    kept = (product.square().sum() / layer.weight.square().sum()).item()
    assert core.energy((2, 3)) == pytest.approx(kept, rel=1e-5)
