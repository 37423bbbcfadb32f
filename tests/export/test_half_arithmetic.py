"""A float16 file is computed in float16, whatever this processor computes it in."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from kdeploy.errors import ParityFailed
from kdeploy.export.run import export

WIDTH = 6


class Squared(nn.Module):
    """Divides by the root of the mean square: right in float32 for numbers of any size."""

    def forward(self, x):
        return x / (x.pow(2).mean(1, keepdim=True) + 1e-6).sqrt()


class Scaled(nn.Module):
    def __init__(self, gain):
        super().__init__()
        self.gain = gain
        self.stem = nn.Linear(WIDTH, 16)
        self.norm = Squared()
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.norm(self.stem(x) * self.gain))


class Varied(nn.Module):
    """Divides by the deviation that torch computes, which is wrong in float16 here too."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(WIDTH, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.stem(x) * 3000
        x = x - x.mean(1, keepdim=True)
        return self.head(x / (x.var(1, keepdim=True) + 1e-6).sqrt())


class Large(nn.Module):
    """A weight that float16 does not hold, between two numbers that it does."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(WIDTH, 16), nn.Linear(16, 4)
        nn.init.normal_(self.stem.weight, std=3e5)

    def forward(self, x):
        return self.head(self.stem(x / 1e3) / 1e3)


class Gated(nn.Module):
    """A sigmoid by hand: exp(-x) is infinite in float16 where the gate is shut anyway."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x):
        return self.head(x / (1 + torch.exp(20 - 5 * x)))


class Masked(nn.Module):
    """Positions that are ruled out with minus infinity, as attention does."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x):
        shut = torch.arange(WIDTH) > 3
        return self.head(x.masked_fill(shut, float("-inf")).softmax(1) * 3 + x)


class Cosine(nn.Module):
    """Divides by a norm that an epsilon of 1e-12 keeps from zero."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(WIDTH, 16, bias=False)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(4 * nn.functional.normalize(self.body(x)))


def written(model, data, tmp_path, **parameters):
    torch.manual_seed(0)
    items = data((WIDTH,))
    path = tmp_path / "m.onnx"
    return export(model().eval(), "onnx_fp16", parameters, items, path)


def told(caplog):
    return [r.getMessage() for r in caplog.records if r.name.startswith("kdeploy")]


def test_numbers_beyond_float16_are_refused_with_layer_value_and_bound(data, tmp_path):
    with pytest.raises(ParityFailed) as caught:
        written(lambda: Scaled(gain=3000.0), data, tmp_path)
    message = caught.value.message
    assert "layer `norm` (`Pow`" in message
    assert "float16 ends at 65504" in message
    reached = float(message.partition("reaches ")[2].partition(",")[0])
    assert 1e6 < reached < 1e9  # squares of some thousands
    assert not list(tmp_path.iterdir())


def test_what_is_wrong_here_too_has_its_layer_and_no_other_cause(data, tmp_path):
    with pytest.raises(ParityFailed, match="float16 ends at 65504") as caught:
        written(Varied, data, tmp_path)
    assert "hides it" not in caught.value.message
    assert "no rounding explains it" not in caught.value.message


def test_a_weight_that_float16_does_not_hold_is_named(data, tmp_path):
    with pytest.raises(ParityFailed, match=r"`stem\.weight` held larger numbers than 65504"):
        written(Large, data, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("made", [lambda: Scaled(gain=3000.0), Varied, Large])
def test_the_hint_leads_to_a_file(data, tmp_path, made):
    with pytest.raises(ParityFailed) as caught:
        written(made, data, tmp_path)
    kinds = caught.value.hint.partition("[")[2].partition("]")[0].split(", ")
    result = written(made, data, tmp_path, keep_float32=tuple(kinds))
    assert result.path.is_file()


def test_numbers_within_float16_pass(data, tmp_path, caplog):
    result = written(lambda: Scaled(gain=1.0), data, tmp_path)
    assert result.path.is_file()
    assert not told(caplog)


def test_an_overflow_that_changes_no_output_is_told(data, tmp_path, caplog):
    assert written(Gated, data, tmp_path).path.is_file()
    (message,) = told(caplog)
    assert "`Exp`, `node_exp` reaches" in message
    assert "float16 ends at 65504; its outputs are right all the same" in message


def test_infinities_that_are_meant_are_no_overflow(data, tmp_path, caplog):
    assert written(Masked, data, tmp_path).path.is_file()
    assert not told(caplog)


def test_a_small_epsilon_is_told_where_devices_take_it_for_zero(data, tmp_path, caplog):
    assert written(Cosine, data, tmp_path).path.is_file()
    (message,) = told(caplog)
    assert "take numbers below 6.1e-05 for zero" in message


def test_few_items_are_enough_of_a_large_part(data, tmp_path):
    torch.manual_seed(0)
    items = data((WIDTH,))
    one = replace(items.validation, x=items.validation.x[:1], y=items.validation.y[:1])
    result = export(
        Scaled(gain=1.0).eval(),
        "onnx_fp16",
        {},
        replace(items, validation=one),
        tmp_path / "m.onnx",
    )
    assert result.path.is_file()
