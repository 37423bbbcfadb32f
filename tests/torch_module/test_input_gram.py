"""Second moments of what layers are given."""

import pytest
import torch
from torch import nn

from kdeploy.torch_module.input_gram import input_grams, input_rows, input_squares

LAYERS = {
    "linear": (nn.Linear(6, 4), (5, 6)),
    "tokens": (nn.Linear(6, 4), (5, 3, 6)),
    "strided": (nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 9, 8)),
    "dilated": (nn.Conv2d(4, 6, (3, 2), dilation=2, padding=(0, 1)), (2, 4, 9, 8)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 7, 7)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4, padding="same"), (2, 4, 7, 7)),
    "reflected": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (2, 4, 7, 7)),
    "signal": (nn.Conv1d(3, 5, 4, stride=3, padding=2), (2, 3, 17)),
    "volume": (nn.Conv3d(2, 3, 2, padding=1), (2, 2, 4, 5, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_the_weight_are_the_outputs(name):
    layer, shape = LAYERS[name]
    x = torch.randn(shape)
    rows = input_rows(layer, x)
    weight = layer.weight.detach().flatten(1).reshape(len(rows), -1, rows.shape[2])
    found = torch.cat(list(rows @ weight.transpose(1, 2)), dim=1)
    if isinstance(layer, nn.Linear):
        expected = (layer(x) - layer.bias).reshape(-1, 4)
    else:
        ones = [1] * (x.dim() - 2)
        made = layer(x) - layer.bias.reshape(-1, *ones)
        expected = made.flatten(2).transpose(1, 2).reshape(-1, made.shape[1])
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5)


def test_moments_tell_the_mean_square_of_a_change():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, groups=1), nn.ReLU(), nn.Conv2d(4, 6, 3, groups=2))
    batches = [torch.randn(8, 3, 10, 10) for _ in range(3)]
    grams = input_grams(model, batches, ["2"])
    assert grams["2"].shape == (2, 18, 18)
    change = torch.randn_like(model[2].weight) * 0.1
    with torch.no_grad():
        hidden = [model[:2](batch) for batch in batches]
        moved = torch.cat([nn.functional.conv2d(h, change, groups=2) for h in hidden])
    per_group = change.flatten(1).reshape(2, 3, 18)
    told = torch.einsum("goi,gij,goj->", per_group, grams["2"], per_group)
    assert told == pytest.approx(float(moved.square().sum(1).mean()), rel=1e-4)


def test_leaves_modes_and_hooks_as_they_were():
    model = nn.Sequential(nn.Dropout(), nn.Linear(3, 2)).train()
    input_grams(model, [torch.ones(2, 3)], ["1"])
    assert model.training
    assert model[0].training
    assert not model[1]._forward_pre_hooks


@pytest.mark.parametrize("name", LAYERS)
def test_squares_are_the_diagonal_of_the_moments(name):
    layer, shape = LAYERS[name]
    batches = [torch.randn(shape) for _ in range(2)]
    model = nn.Sequential(layer)
    grams = input_grams(model, batches, ["0"])["0"]
    squares = input_squares(model, batches, ["0"])["0"]
    torch.testing.assert_close(squares, grams.diagonal(dim1=1, dim2=2))


class Joined(nn.Module):
    """Three layers, two of which see the same rows; written to in between where it is asked."""

    def __init__(self, changes: bool = False) -> None:
        super().__init__()
        self.one, self.two, self.three = (nn.Linear(6, 6) for _ in range(3))
        self.changes = changes

    def forward(self, x):
        x = x + 0
        first = self.one(x)
        if self.changes:
            x.mul_(2)
        return self.three(first + self.two(x))


def test_layers_that_see_the_same_rows_share_their_moments():
    x = torch.randn(5, 6)
    model = Joined()
    found = input_grams(model, [x, x], ["one", "two", "three"])
    torch.testing.assert_close(found["one"][0], x.T @ x / 5)
    assert found["one"] is found["two"]
    alone = input_grams(model, [x], ["three"])
    torch.testing.assert_close(found["three"], alone["three"])


def test_rows_that_are_written_to_in_between_are_others():
    x = torch.randn(5, 6)
    found = input_grams(Joined(changes=True), [x], ["one", "two"])
    torch.testing.assert_close(found["one"][0], x.T @ x / 5)
    torch.testing.assert_close(found["two"][0], 4 * x.T @ x / 5)
