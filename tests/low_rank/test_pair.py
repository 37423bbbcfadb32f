"""Two layers in the place of one: the same at full rank, the best ones below it."""

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.low_rank.pair import form_of, pair_of
from kdeploy.low_rank.whitening import root_of
from kdeploy.torch_module.input_gram import input_grams

# Even kernels with padding on both sides, of which torch says that they are slow.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")
LAYERS = {
    "linear": (nn.Linear(7, 5), (3, 7)),
    "linear without bias, of sequences": (nn.Linear(7, 9, bias=False), (3, 4, 7)),
    "1x1": (nn.Conv2d(6, 4, 1, stride=2, padding=1), (2, 6, 9, 8)),
    "3x3": (nn.Conv2d(3, 6, 3, padding=1), (2, 3, 9, 8)),
    "strides": (nn.Conv2d(3, 6, (3, 5), (2, 3), (1, 2)), (2, 3, 9, 11)),
    "dilation": (nn.Conv2d(4, 6, 3, dilation=(2, 3), bias=False), (2, 4, 9, 11)),
    "same": (nn.Conv2d(4, 6, (4, 3), padding="same"), (2, 4, 9, 11)),
    "valid": (nn.Conv2d(4, 6, 3, padding="valid"), (2, 4, 9, 11)),
    "reflect": (nn.Conv2d(4, 6, 3, 2, (2, 1), padding_mode="reflect"), (2, 4, 9, 11)),
    "circular": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 9, 11)),
    "one-sided kernel": (nn.Conv2d(4, 6, (1, 5), padding=(0, 2)), (2, 4, 9, 11)),
    "1d": (nn.Conv1d(4, 6, 5, 2, 2, dilation=2), (2, 4, 19)),
    "3d": (nn.Conv3d(2, 3, (1, 3, 2), (1, 2, 1), (0, 1, 1)), (2, 2, 4, 5, 6)),
}


def inputs_of(shape, *, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("form", ["channel", "spatial"])
@pytest.mark.parametrize("is_whitened", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_full_rank_reproduces_the_layer(name, is_whitened, form):
    layer, shape = LAYERS[name]
    layer.reset_parameters()  # drawn with the test's seed
    x = inputs_of(shape)
    gram = input_grams(layer, [x], [""])[""][0] if is_whitened else None
    pair = pair_of(layer, form=form_of(layer, form), gram=gram)
    factors = pair.layers(pair.full)
    torch.testing.assert_close(factors(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["channel", "spatial"])
def test_the_skeleton_has_the_shapes_of_the_layers(form):
    pair = pair_of(nn.Conv2d(3, 6, (3, 5), (2, 3), (1, 2)), form=form)
    shapes = [p.shape for p in pair.skeleton((2,)).parameters()]
    assert shapes == [p.shape for p in pair.layers((2,)).parameters()]
    kernels = {"channel": ((3, 5), (1, 1)), "spatial": ((3, 1), (1, 5))}
    assert tuple(shapes[0][2:]), tuple(shapes[1][2:]) == kernels[form]


def test_the_product_is_the_best_one_of_its_rank():
    layer = nn.Linear(9, 6)
    weight = layer.weight.detach().double().numpy()
    left, values, right = np.linalg.svd(weight, full_matrices=False)
    reduce, expand = pair_of(layer, form="channel").layers((3,))
    product = (expand.weight @ reduce.weight).detach().numpy()
    np.testing.assert_allclose(product, (left[:, :3] * values[:3]) @ right[:3], atol=1e-6)
    # Eckart and Young: the error is what the left-out singular values are.
    assert np.linalg.norm(product - weight) == pytest.approx(np.linalg.norm(values[3:]), rel=1e-5)


def test_the_energy_kept_is_that_of_the_product():
    layer = nn.Conv2d(4, 6, 3)
    pair = pair_of(layer, form="spatial")
    reduce, expand = pair.layers((5,))
    product = torch.einsum("riyz,orzx->oiyx", reduce.weight, expand.weight)
    assert pair.energy((5,)) == pytest.approx(
        (product.square().sum() / layer.weight.square().sum()).item(), rel=1e-5
    )
    assert pair.energy(pair.full) == pytest.approx(1)


def test_no_product_of_the_rank_has_a_smaller_damped_output_error():
    layer, x = nn.Linear(8, 6, bias=False), correlated((64, 8))
    gram = (x.T @ x / 64).double()
    root = root_of(gram).numpy()
    weight = layer.weight.detach().double().numpy()
    reduce, expand = pair_of(layer, form="channel", gram=gram).layers((2,))
    product = (expand.weight @ reduce.weight).detach().double().numpy()
    least = np.linalg.norm(np.linalg.svd(weight @ root)[1][2:])
    assert np.linalg.norm((product - weight) @ root) == pytest.approx(least, rel=1e-4)


@pytest.mark.parametrize("form", ["channel", "spatial"])
def test_whitened_factors_err_less_on_correlated_inputs(form):
    layer, x = nn.Conv2d(8, 12, 3, padding=1), correlated((16, 6, 6, 8)).permute(0, 3, 1, 2)
    gram = input_grams(layer, [x], [""])[""][0]
    errors = []
    for given in (gram, None):
        factors = pair_of(layer, form=form, gram=given).layers((6,))
        errors.append((factors(x) - layer(x)).square().sum().item())
    assert errors[0] < 0.7 * errors[1]


def test_both_factors_have_the_same_size():
    reduce, expand = pair_of(nn.Linear(20, 30), form="channel").layers((4,))
    assert reduce.weight.norm().item() == pytest.approx(expand.weight.norm().item(), rel=1e-5)


def test_a_layer_of_zeros_stays_one():
    layer = nn.Linear(6, 4)
    nn.init.zeros_(layer.weight)
    pair = pair_of(layer, form="channel", gram=torch.eye(6))
    torch.testing.assert_close(pair.layers((1,))(torch.ones(2, 6)), layer(torch.ones(2, 6)))
    assert pair.energy((1,)) == 1


def correlated(shape):
    """Return numbers whose last dimension lies near a plane of few directions."""
    few = inputs_of((*shape[:-1], 2)) @ inputs_of((2, shape[-1]), seed=2)
    return few + 0.1 * inputs_of(shape, seed=3)
