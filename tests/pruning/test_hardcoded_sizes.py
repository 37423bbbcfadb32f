"""What the code fixes, in the graph of a model."""

import torch
from torch import nn

from kdeploy.pruning.hardcoded_sizes import fixed_nodes, stated_splits
from kdeploy.pruning.operations import operation
from kdeploy.pruning.tracing import trace, traceable


class Sums(nn.Module):
    """Meets constants of all kinds; of one alone, channels have each their own."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)
        self.learned = nn.Parameter(torch.rand(4, 1, 1))
        self.scales = nn.Parameter(torch.rand(3))
        self.register_buffer("table", torch.rand(1, 4, 1, 1))

    def forward(self, x):
        x = (self.layer(x) + self.learned) * torch.tensor(2.0) * (self.scales * torch.ones(3)).sum()
        return ((x - torch.rand(8)) / self.table).mean((2, 3))


def graph_of(model, example):
    with traceable(model):
        return trace(model, example)


def test_only_a_constant_for_each_channel_fixes_them(example):
    fixed = fixed_nodes(graph_of(Sums().eval(), example))
    assert [operation(node) for node in fixed] == ["Div"]


def test_splits_are_told_apart_by_where_their_sizes_stand(make, example):
    model = make("Mixed")
    graph = graph_of(model, example)
    stated = stated_splits(graph, model)
    assert list(stated.values()) == ["sizes"]
    assert len(fixed_nodes(graph)) == 2
    assert stated.keys() <= fixed_nodes(graph)
    assert fixed_nodes(graph_of(make("Concat"), example)) == set()
