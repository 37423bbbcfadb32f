from __future__ import annotations

import numpy as np
import pytest
import torch

from kdeploy.data.mixing import CUTMIX_ALPHA, MIXES, MIXUP_ALPHA, mixer

COUNT = 40


def numbered(shape=(1, 12, 20)):
    """Return items of which each holds its own number everywhere, and their numbers as labels."""
    labels = torch.arange(COUNT)
    x = labels.float().reshape(-1, *(1 for _ in shape)).expand(COUNT, *shape).clone()
    return x, labels


@pytest.mark.parametrize("name", MIXES)
def test_probabilities_are_the_shares_of_what_is_seen(name):
    x, labels = numbered()
    mixed, probabilities = mixer([name], COUNT)(x, labels)
    assert mixed.shape == x.shape
    assert probabilities.shape == (COUNT, COUNT)
    assert probabilities.dtype == torch.float32
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(COUNT))
    # The mean of an item is the mean of the two numbers in it, weighted by their areas.
    expected = probabilities @ torch.arange(COUNT).float()
    assert torch.allclose(mixed.mean(dim=(1, 2, 3)), expected, atol=1e-4)
    assert ((probabilities > 0).sum(dim=1) == 2).float().mean() > 0.5


@pytest.mark.parametrize("name", MIXES)
def test_the_batch_that_was_given_and_the_seed_stay(name):
    x, labels = numbered()
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(mixer([name], COUNT)(x, labels))
    assert torch.equal(x, numbered()[0])
    for first, again, other in zip(*results, strict=True):
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_cutmix_pastes_a_rectangle():
    mixed, probabilities = mixer(["cutmix"], COUNT)(*numbered())
    for number, (image, row) in enumerate(zip(mixed[:, 0], probabilities, strict=True)):
        foreign = image != number
        if not foreign.any():
            continue
        height, width = (int(foreign.any(dim=d).sum()) for d in (1, 0))
        assert int(foreign.sum()) == height * width
        assert row[number].item() == pytest.approx(1 - height * width / 240)


def test_mixup_shares_follow_the_beta_distribution():
    x = torch.eye(2).repeat(4000, 1)
    labels = torch.tensor([0, 1]).repeat(4000)
    mixed, probabilities = mixer(["mixup"], 2)(x, labels)
    assert torch.equal(mixed, probabilities)
    # Var of Beta(a, a) is 1 / (4 (2a + 1)); half of the partners are of the other class.
    own = probabilities[torch.arange(8000), labels]
    is_mixed = own < 1
    shares = own[is_mixed].numpy()
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * MIXUP_ALPHA + 1)), rel=0.05)


def test_cutmix_areas_are_even():
    assert CUTMIX_ALPHA == 1
    x = torch.arange(2000.0).reshape(-1, 1, 1, 1).expand(-1, 1, 32, 32).clone()
    labels = torch.arange(2000)
    _, probabilities = mixer(["cutmix"], 2000)(x, labels)
    shares = probabilities.diagonal().numpy()
    # Sides are whole pixels, rounded down, so the areas that are pasted are a little smaller.
    assert np.quantile(shares, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.06)


def test_mixup_takes_signals_too():
    x, labels = numbered((3, 30))
    mixed, _ = mixer(["mixup"], COUNT)(x, labels)
    assert mixed.shape == x.shape


def test_of_two_mixes_each_batch_draws_one():
    both = mixer(["random_crop", "mixup", "cutmix"], COUNT)
    x, labels = numbered()
    kinds = set()
    for _ in range(12):
        mixed, _ = both(x, labels)
        whole = (mixed.flatten(1) == mixed.flatten(1)[:, :1]).all()  # no rectangle in any image
        kinds.add(bool(whole))
    assert kinds == {True, False}


def test_without_a_mix_there_is_nothing_to_do():
    assert mixer(["random_crop"], 3) is None


@pytest.mark.parametrize("name", sorted(MIXES))
def test_items_without_a_label_add_to_no_class(name):
    labels = torch.full((8,), -1)
    _, probabilities = mixer([name], 4)(torch.rand(8, 1, 12, 20), labels)
    assert not probabilities.any()
