"""Networks inside a larger one: which are, and what they compute."""

import pytest
import torch
from torch import nn

from kdeploy.errors import ModelError
from kdeploy.torch_module.nested import beginnings, check_nested, cut_out


def net(width, depth=1, inputs=5):
    layers = [nn.Linear(inputs, width), nn.BatchNorm1d(width)]
    blocks = [nn.Linear(width, width) for _ in range(depth)]
    return nn.ModuleDict(
        {
            "stem": nn.Sequential(*layers),
            "blocks": nn.Sequential(*blocks),
            "head": nn.Linear(width, 3),
        }
    )


def test_a_small_one_has_the_first_rows_and_columns_and_the_first_layers():
    large, small = net(8, depth=3), net(4, depth=2)
    check_nested(small, large, name="small")
    cut_out(small, large)
    torch.testing.assert_close(small["blocks"][1].weight, large["blocks"][1].weight[:4, :4])
    torch.testing.assert_close(small["head"].weight, large["head"].weight[:, :4])
    torch.testing.assert_close(small["head"].bias, large["head"].bias)


def test_beginnings_are_views_through_which_the_large_one_learns():
    large, small = net(8), net(4)
    tensors = {**dict(large.named_parameters()), **dict(large.named_buffers())}
    found = beginnings(small, tensors)
    found["stem.0.weight"].sum().backward()
    gradient = large["stem"][0].weight.grad
    assert torch.equal(gradient[:4], torch.ones(4, 5))
    assert not gradient[4:].any()


@pytest.mark.parametrize(
    ("small", "said"),
    [
        (lambda: net(12), r"`stem\.0\.weight` is \(12, 5\), the student's is \(8, 5\)"),
        (lambda: net(8, depth=4), r"it has `blocks\.3\.weight`"),
    ],
)
def test_what_is_larger_somewhere_is_not_inside(small, said):
    with pytest.raises(ModelError, match=said):
        check_nested(small(), net(8, depth=3), name="this one")


def test_a_tensor_of_several_matrices_has_no_beginning_that_is_a_smaller_layer():
    def recurrent(hidden, outputs=8):
        return nn.ModuleDict({"lstm": nn.LSTM(3, hidden), "head": nn.Linear(8, outputs)})

    check_nested(recurrent(8, outputs=4), recurrent(8), name="small")
    with pytest.raises(ModelError, match="several matrices in one tensor"):
        check_nested(recurrent(4), recurrent(8), name="small")
