from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from kdeploy.errors import ModelError
from kdeploy.torch_module.model_outputs import answer_of, in_eval, outputs_of

FEATURES, LOGITS = torch.rand(2, 7), torch.rand(2, 3)
Pair = namedtuple("Pair", "features logits")


def test_a_model_and_its_input_are_left_as_they_were():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.9), nn.Linear(3, 2))
    model[1].eval()
    x = torch.rand(4, 3)
    kept, statistics = x.clone(), model[0].running_mean.clone()
    out = outputs_of(model, x, role="the model")
    assert torch.equal(x, kept)
    assert torch.equal(out, model[2](model[0].eval()(x)))
    assert torch.equal(model[0].running_mean, statistics)
    model[0].train()
    with in_eval(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model] == [True, False, True]


def test_an_input_that_is_changed_is_told_and_the_callers_stays():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2))
    x = torch.randn(4, 3)
    kept = x.clone()
    with pytest.raises(ModelError, match=r"in place \(`0` \(ReLU\(inplace=True\)\)\)"):
        outputs_of(model, x, role="the model")
    assert torch.equal(x, kept)
    # What changes nothing in these numbers is told by the next batch, or harms nobody.
    assert outputs_of(model, x.abs(), role="the model").shape == (4, 2)


def test_what_is_not_a_number_does_not_count_as_changed():
    x = torch.tensor([[float("nan"), 1.0, -float("inf")]])
    assert outputs_of(nn.Linear(3, 2), x, role="the model").shape == (1, 2)


@pytest.mark.parametrize(
    ("answer", "text", "hint"),
    [
        (None, "returns nothing", "one tensor of logits"),
        (
            {"aux": LOGITS, "logits": LOGITS},
            "returns a dict of `aux`, `logits`",
            "`['logits']` of that",
        ),
        ({"aux": LOGITS, "out": LOGITS}, "returns a dict of `aux`, `out`", "`['out']` of that"),
        ({"y": LOGITS}, "returns a dict of `y`", "`['y']` of that"),
        ((LOGITS, None), "returns a tuple of 2", ": `[0]` of that"),
        ((FEATURES, LOGITS), "returns a tuple of 2", ": `[0]` or `[1]` of that"),
        (Pair(FEATURES, LOGITS), "a named tuple of `features`, `logits`", ": `.logits` of that"),
        ({"out": {"logits": LOGITS}}, "returns a dict of `out`", ": `['out']['logits']` of that"),
        ({"loss": 1}, "returns a dict of `loss`", "one tensor of logits"),
        (SimpleNamespace(logits=1), "of the type `SimpleNamespace`", "`.logits` of that"),
        (object(), "returns an object of the type `object`", "one tensor of logits"),
    ],
)
def test_what_is_no_tensor_is_told_in_words(answer, text, hint):
    class Odd(nn.Module):
        def forward(self, x):
            return answer

    with pytest.raises(ModelError, match=text) as caught:
        answer_of(Odd(), torch.rand(2, 3), role="the model")
    assert caught.value.hint.endswith(hint)
