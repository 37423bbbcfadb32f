"""Which item has an answer of no numbers, and which layer made it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdeploy.errors import ModelError
from kdeploy.torch_module.finite import check_answers, first_layer


class Normed(nn.Module):
    def forward(self, x):
        return x / x.norm(dim=1, keepdim=True)  # 0 / 0 for an empty item


class Ruled(nn.Module):
    def forward(self, x):
        return x.masked_fill(x < 0, float("-inf"))


def network():
    return nn.Sequential(nn.Linear(3, 4, bias=False), Normed(), nn.ReLU(), nn.Linear(4, 2)).eval()


def test_the_item_and_the_first_layer_are_named():
    model, x = network(), torch.ones(5, 3)
    x[3] = 0
    with pytest.raises(ModelError) as caught:
        check_answers(model, x, model(x), name="teacher", part="test", first=20)
    assert "the teacher answers NaN or infinity to test item 23" in caught.value.message
    assert "first layer whose output is no number is `1`" in caught.value.message
    assert "empty" in caught.value.hint


def test_numbers_of_items_come_from_whoever_chose_them():
    model, x = network(), torch.zeros(2, 3)
    with pytest.raises(ModelError, match="training item 70"):
        check_answers(
            model, x, model(x), name="teacher", part="training", numbers=torch.tensor([70, 5])
        )


def test_a_model_that_diverged_is_told_by_its_weights():
    model, x = network(), torch.ones(2, 3)
    with torch.no_grad():
        model[3].weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"`3\.weight`") as caught:
        check_answers(model, x, model(x), name="model", part="validation")
    assert "learning_rate" in caught.value.hint


def test_classes_that_are_ruled_out_are_answers():
    x = torch.tensor([[1.0, -1.0], [-1.0, 2.0]])
    check_answers(Ruled(), x, Ruled()(x), name="model", part="validation")
    assert first_layer(network(), torch.ones(2, 3)) is None


def test_a_mask_of_infinities_is_not_blamed_for_the_nan_behind_it():
    model = nn.Sequential(Ruled(), nn.Softmax(1), nn.Linear(2, 2)).eval()
    assert first_layer(model, -torch.ones(2, 2)) == "1"


def test_what_stands_on_a_plain_model_is_looked_at_there():
    class Standing(nn.Module):
        def __init__(self):
            super().__init__()
            self._held = [network()]

        @property
        def base(self):
            return self._held[0]

        def forward(self, x):
            return self.base(x)

    assert first_layer(Standing(), torch.zeros(2, 3)) == "1"


class OfNoLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(3, 2)

    def forward(self, x):
        return self.out(x.abs() + 1) + x.sum(1, keepdim=True).log()


class Fused(nn.Module):
    """Torch's own layer has a path for eval mode that it leaves where a layer is watched."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)

    def forward(self, x):
        return self.layer(x, src_key_padding_mask=x[..., 0] == 0).mean(1)


@pytest.mark.parametrize(
    ("model", "item", "line"),
    [
        (OfNoLayer, torch.zeros(3), r"forward: `return self\.out\(x\.abs\(\) \+ 1\) \+ x\.sum"),
        (Fused, torch.zeros(5, 4), r"forward: `return self\.layer\(x, src_key_padding_mask"),
    ],
)
def test_what_no_layer_answers_has_its_line(model, item, line):
    torch.manual_seed(0)
    made, x = model().eval(), torch.stack([torch.ones_like(item), item])
    with torch.no_grad():
        answer = made(x)
    with pytest.raises(ModelError, match=f"test item 1, .*is made at .*test_finite.py.*{line}"):
        check_answers(made, x, answer, name="teacher", part="test")
