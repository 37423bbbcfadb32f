"""A second network of the same build, with first weights of its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdeploy.distill.reinitialize import fresh_copy
from kdeploy.errors import ModelError


def test_every_weight_is_new_and_the_model_as_it_was(tiny_model):
    model = tiny_model(seed=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = fresh_copy(model, seed=3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    convolutions = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for name in convolutions:
        assert not torch.equal(made.get_submodule(name).weight, model.get_submodule(name).weight)
    assert made.bn.num_batches_tracked == 0


def test_follows_its_seed_and_uses_up_no_random_number(tiny_model):
    model = tiny_model()
    state = torch.get_rng_state()
    one, two, other = (fresh_copy(model, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.head.weight, two.head.weight)
    assert not torch.equal(one.head.weight, other.head.weight)


def test_attention_is_started_anew_too():
    model = nn.MultiheadAttention(8, 2)
    assert not torch.equal(fresh_copy(model, seed=1).in_proj_weight, model.in_proj_weight)


def test_refuses_a_model_that_would_stay_as_it_is():
    with pytest.raises(ModelError, match="Identity can be initialised"):
        fresh_copy(nn.Identity(), seed=0)
