"""Which weights become zero."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.sparsity.choice import WeightRanking, input_norms, set_zeros
from kdeploy.torch_module.input_gram import input_rows, input_squares


def weights(*shapes):
    return {f"{i}.weight": torch.randn(shape) for i, shape in enumerate(shapes)}


def test_global_takes_the_smallest_of_all_layers():
    given = weights((8, 16), (4, 8, 3, 3))
    given["1.weight"] *= 3
    masks = WeightRanking(scope="global").zeros(given, 0.4)
    together = np.concatenate([np.abs(w.numpy()).ravel() for w in given.values()])
    found = np.concatenate([m.numpy().ravel() for m in masks.values()])
    expected = np.zeros(len(together), bool)
    expected[np.argsort(together)[: round(0.4 * len(together))]] = True
    assert (found == expected).all()
    assert masks["0.weight"].float().mean() > masks["1.weight"].float().mean()


def test_local_takes_the_same_part_of_each_layer():
    given = weights((8, 16), (4, 8, 3, 3))
    given["1.weight"] *= 100
    for name, mask in WeightRanking(scope="local").zeros(given, 0.25).items():
        assert mask.sum() == mask.numel() // 4
        assert given[name][mask].abs().max() < given[name][~mask].abs().min()


def test_global_leaves_something_of_each_layer():
    given = weights((20, 20), (20, 20))
    given["0.weight"] *= 1e-6
    masks = WeightRanking(scope="global").zeros(given, 0.6)
    assert int((~masks["0.weight"]).sum()) == 4
    assert sum(int(m.sum()) for m in masks.values()) == 480


@pytest.mark.parametrize("scope", ["global", "local"])
def test_weights_that_are_zero_come_first(scope):
    given = {"weight": torch.randn(10, 10)}
    norms = {"weight": torch.rand(1, 10).expand(10, 10) * (torch.arange(10) > 4)}
    given["weight"][:, 7:9] = 0
    for choice in (WeightRanking(scope=scope), WeightRanking(scope=scope, norms=norms)):
        mask = choice.zeros(given, 0.2)["weight"]
        assert torch.equal(mask, given["weight"] == 0)


def test_equal_weights_go_to_an_exact_count():
    mask = WeightRanking(scope="local").zeros({"weight": torch.ones(4, 4)}, 0.25)["weight"]
    assert mask.flatten().tolist() == [True] * 4 + [False] * 12


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Linear(12, 6), (40, 12)), (nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 4, 6, 6))],
    ids=["linear", "grouped"],
)
def test_wanda_is_the_formula(layer, shape):
    """Equation 1 of arXiv:2306.11695: |W| * ||X||, compared within each output."""
    x = torch.randn(shape) * torch.linspace(0.1, 3, shape[1]).view(1, -1, *[1] * (len(shape) - 2))
    squares = input_squares(layer, [x], [""])[""]
    mask = WeightRanking(scope="local", norms={"weight": input_norms(squares, layer.weight)}).zeros(
        {"weight": layer.weight.detach()}, 0.5
    )["weight"]
    weight = layer.weight.detach().flatten(1).numpy()
    rows = input_rows(layer, x).numpy()  # (groups, items, inputs)
    for output, row in enumerate(weight):
        group = output // (len(weight) // len(rows))
        score = np.abs(row) * np.linalg.norm(rows[group], axis=0)
        expected = set(np.argsort(score)[: round(len(row) / 2)])
        assert set(np.flatnonzero(mask.flatten(1)[output].numpy())) == expected


def test_sets_zeros_in_the_named_weights_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    set_zeros(model, ("1.weight",), WeightRanking(), 0.5)
    assert [int((layer.weight == 0).sum()) for layer in model] == [0, 8]
