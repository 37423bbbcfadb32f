from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from kdeploy.quantization.functional import functional_graph


class Residual(nn.Module):
    """The usual in-place operators: nothing else looks at their memory."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        y = functional.relu(self.conv(x), inplace=True)
        z = self.conv(y)
        z += y
        return functional.relu6(z, inplace=True) + y


class Sliced(nn.Module):
    """A view of what an operator changes in place: the change shows through."""

    def forward(self, x):
        y = x * 2
        y[:, :1].relu_()
        return y + 1


class Rewound(nn.Module):
    """A reader before and a reader after the change of the same tensor."""

    def forward(self, x):
        y = x * 2
        before = y + 1
        y.clamp_(min=0)
        return before * y


@pytest.mark.parametrize("model", [Residual(), Sliced(), Rewound()], ids=lambda m: type(m).__name__)
def test_no_operator_changes_its_input_and_the_result_is_the_same(model):
    x = torch.randn(4, 3, 5, 5)
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    graph_module = functional_graph(torch.export.export(model.eval(), (x,), dynamic_shapes=dynamic))
    schemas = [getattr(n.target, "_schema", None) for n in graph_module.graph.nodes]
    assert not any(schema.is_mutable for schema in schemas if schema is not None)
    torch.testing.assert_close(graph_module(x.clone()), model(x.clone()))
