"""Losses are tried on two models before anything is trained."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from kdeploy.distill.comparable import check_comparable
from kdeploy.distill.config import DistillConfig
from kdeploy.errors import ModelError, UnknownName


class Reader(nn.Module):
    """Reads the rows of a picture with a recurrent layer."""

    def __init__(self):
        super().__init__()
        self.rows = nn.LSTM(12, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        outputs, _ = self.rows(x.squeeze(1))
        return self.head(outputs[:, -1])


@pytest.mark.parametrize(
    ("losses", "error", "says"),
    [
        ([{"hints": {"layers": {"stem": "nowhere"}}}], UnknownName, "no layer `nowhere`"),
        ([{"hints": {"layers": {"stem": "head"}}}], ModelError, "hints"),
    ],
)
def test_what_cannot_be_compared_is_told(tiny_model, tiny_data, losses, error, says):
    with pytest.raises(error, match=says):
        check_comparable(tiny_model(), tiny_model(), tiny_data, DistillConfig(losses=losses).losses)


def test_a_recurrent_layer_can_be_compared(tiny_data):
    losses = [{"similarity": {"layers": {"rows": "rows"}}}, {"rkd": {}}]
    check_comparable(Reader(), Reader(), tiny_data, DistillConfig(losses=losses).losses)


def test_nothing_of_it_stays(tiny_model, tiny_data):
    model = tiny_model()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    check_comparable(model, model, tiny_data, DistillConfig(losses=["kd", "crd"]).losses)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
