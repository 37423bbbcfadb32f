from __future__ import annotations

import torch
from torch import nn

from kdeploy.export.batch_views import write_batch_views
from kdeploy.quantization.capture import capture, flat_outputs

aten = torch.ops.aten


class Reshapes(nn.Module):
    def forward(self, x):
        flat = x.flatten(1)
        rows = x.mean((2, 3), keepdim=True).squeeze(3).squeeze(2)
        return flat.reshape(x.shape[0], -1) * 2, rows.unsqueeze(1)


def views(graph_module):
    calls = [n for n in graph_module.graph.nodes if n.op == "call_function"]
    return [n.args[1] for n in calls if n.target is aten.view.default], [n.target for n in calls]


def test_no_size_is_computed_from_the_batch_and_answers_stay_the_same():
    model, x = Reshapes().eval(), torch.randn(3, 2, 4, 5)
    graph = write_batch_views(flat_outputs(capture(model, x)))
    sizes, targets = views(graph)
    assert [-1, 40] in sizes
    assert [-1, 1, 2] in sizes
    assert aten.sym_size.int not in targets
    for rows in (x, x[:1]):
        assert all(map(torch.equal, graph(rows), model(rows)))


class Mixing(nn.Module):
    def forward(self, x):
        return x.reshape(-1, 4).relu()


def test_a_reshape_that_mixes_rows_is_left():
    model, x = Mixing().eval(), torch.randn(3, 2, 4)
    graph = write_batch_views(flat_outputs(capture(model, x)))
    assert torch.equal(graph(x), model(x))
    assert views(graph)[0] in ([], [[-1, 4]])


class Patches(nn.Module):
    """Cuts an image into patches, each a row, as vision Transformers begin."""

    def forward(self, x):
        cut = x.reshape(x.shape[0], 2, 2, 2, 2, 2).permute(0, 2, 4, 3, 5, 1)
        return cut.reshape(x.shape[0], 4, 8)


def test_what_was_permuted_is_still_reshaped():
    model, x = Patches().eval(), torch.randn(3, 2, 4, 4)
    graph = write_batch_views(flat_outputs(capture(model, x)))
    for given in (x, x[:1], x.contiguous(memory_format=torch.channels_last)):
        assert torch.equal(graph(given), model(given))
    assert aten.sym_size.int not in views(graph)[1]
