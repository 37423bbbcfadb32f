"""Models are called with several inputs by the names of `forward`'s parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdeploy.errors import ModelError
from kdeploy.torch_module.model_outputs import answer_of
from kdeploy.torch_module.named_inputs import NamedTensors, call


class Weighted(nn.Module):
    def forward(self, image, vector, scale=2.0):
        return scale * image.flatten(1).sum(1, keepdim=True) + vector


class InPlace(nn.Module):
    def forward(self, image, vector):
        return vector.add_(image.flatten(1).sum(1, keepdim=True))


IMAGE, VECTOR = torch.arange(12.0).reshape(3, 1, 2, 2), torch.ones(3, 5)
BOTH = NamedTensors({"vector": VECTOR, "image": IMAGE})


def test_the_order_of_the_names_does_not_matter():
    torch.testing.assert_close(call(Weighted(), BOTH), Weighted()(IMAGE, VECTOR))


def test_inputs_without_names_are_given_in_their_order():
    by_place = NamedTensors({"input_0": IMAGE, "input_1": VECTOR})
    torch.testing.assert_close(call(Weighted(), by_place), Weighted()(IMAGE, VECTOR))


def test_rows_parts_and_copies_keep_the_inputs_together():
    assert len(BOTH) == 3
    assert BOTH.shape == (3,)
    torch.testing.assert_close(BOTH[1:].tensors["image"], IMAGE[1:])
    assert [len(part) for part in BOTH.tensor_split(2)] == [2, 1]
    copied = BOTH.clone()
    copied.tensors["vector"].zero_()
    assert bool(VECTOR.all())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"image": IMAGE, "vectr": VECTOR}, "given the input `vectr`"),
        ({"image": IMAGE}, "needs `vector`"),
        ({"image": IMAGE, "vector": VECTOR, "more": VECTOR}, "given the input `more`"),
    ],
)
def test_a_model_that_takes_other_names_is_refused(names, message):
    with pytest.raises(ModelError, match=message) as caught:
        answer_of(Weighted(), NamedTensors(names), role="the teacher")
    assert caught.value.hint


def test_an_input_that_is_changed_in_place_is_found():
    with pytest.raises(ModelError, match="changes its input in place"):
        answer_of(InPlace(), BOTH, role="the student")


def test_shapes_that_do_not_run_are_told_by_name():
    bad = NamedTensors({"image": IMAGE, "vector": torch.ones(4, 5)})
    with pytest.raises(ModelError, match=r"`image` \(1, 2, 2\), `vector` \(5,\)"):
        answer_of(Weighted(), bad, role="the student")
