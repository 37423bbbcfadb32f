"""Attention is recognised by what is called."""

import pytest
import torch
from torch import nn

from kdeploy.pruning.attention import find_attentions
from kdeploy.pruning.calls import recording
from tests.pruning.attentions import (
    HEADS,
    WIDTH,
    Apart,
    Default,
    Fused,
    Normed,
    Own,
    example,
    make,
)


def found_in(model):
    x = example()
    with recording(model) as calls, torch.no_grad():
        model(x)
    return find_attentions(calls, model, len(x))


def numbers(*, start=0, by_head=True):
    table = torch.arange(HEADS * WIDTH)
    return start + (table.view(HEADS, WIDTH) if by_head else table.view(WIDTH, HEADS).T)


@pytest.mark.parametrize("kind", [Fused, Default])
def test_parts_of_one_layer_are_told_apart(kind):
    [found], reasons = found_in(make(kind))
    by_head = kind is Fused
    for number, part in enumerate(found.parts):
        assert part.layer.startswith("attention.")
        expected = numbers(start=number * HEADS * WIDTH, by_head=by_head)
        assert torch.equal(part.channels, expected)
    assert torch.equal(found.project.channels, numbers(by_head=by_head))
    assert found.modules == {"attention"}
    assert reasons == {}


def test_parts_of_three_layers_have_each_their_own():
    [found], _ = found_in(make(Apart))
    layers = [part.layer for part in found.parts]
    assert layers == ["attention.query", "attention.key", "attention.value"]
    assert found.project.layer == "attention.output"
    assert all(torch.equal(part.channels, numbers()) for part in (*found.parts, found.project))


def test_what_is_not_followed_has_a_reason():
    assert found_in(make(Own)) == (
        [],
        {"attention.inner": "torch's own attention has one width for its inputs and heads"},
    )
    found, reasons = found_in(make(Normed))
    assert found == []
    assert reasons == {"attention": "`layer_norm` stands between a layer and its products"}


def test_a_softmax_of_gates_is_no_attention():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = nn.Linear(12, 12)

        def forward(self, x):
            return x * self.gate(x).softmax(-1)

    assert found_in(make(Gate)) == ([], {})
