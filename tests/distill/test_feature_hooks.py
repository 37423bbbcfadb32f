"""Hooks read what the layers give and leave nothing behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdeploy.distill.feature_hooks import features_of, modules_at, stripped
from kdeploy.errors import ModelError, UnknownName


def hooks(model):
    return sum(len(m._forward_hooks) for m in model.modules())


def test_reads_the_output_of_a_layer(tiny_model):
    model, x = tiny_model(), torch.rand(2, 1, 12, 12)
    with features_of(model, ["stem", "blocks.1.bn2"], role="student") as features:
        model(x)
    assert torch.equal(features["stem"], model.stem(x))
    assert features["blocks.1.bn2"].shape == (2, 16, 6, 6)
    assert hooks(model) == 0


def test_leaves_no_hook_after_an_error(tiny_model):
    model = tiny_model()
    with pytest.raises(RuntimeError), features_of(model, ["stem"], role="student"):
        model(torch.rand(2, 3, 12, 12))
    assert hooks(model) == 0


def test_an_unknown_layer_names_the_nearest_and_leaves_no_hook(tiny_model):
    model = tiny_model()
    with (
        pytest.raises(UnknownName, match=r"no layer `blocks\.7` in the teacher") as caught,
        features_of(model, ["stem", "blocks.7"], role="teacher"),
    ):
        pass
    assert "did you mean `blocks." in caught.value.hint
    assert hooks(model) == 0


class Around(nn.Module):
    """What DataParallel and DDP do to names."""

    def __init__(self, module):
        super().__init__()
        self.module = module


class Compiled(nn.Module):
    """What torch.compile does to names."""

    def __init__(self, module):
        super().__init__()
        self._orig_mod = module


@pytest.mark.parametrize("wrap", [Around, Compiled, lambda m: Around(Compiled(m))])
def test_wrapped_models_keep_their_names(wrap, tiny_model):
    model = tiny_model()
    found = modules_at(wrap(model), ["blocks.0.conv1", "module.stem"], role="student")
    assert list(found.values()) == [model.blocks[0].conv1, model.stem]


def test_a_compiled_block_keeps_its_name(tiny_model):
    model = tiny_model()
    conv = model.blocks[0].conv1
    model.blocks[0] = Compiled(model.blocks[0])
    assert modules_at(model, ["blocks.0.conv1"], role="student") == {"blocks.0.conv1": conv}


def test_a_path_with_a_wrapper_fits_a_bare_model(tiny_model):
    model = tiny_model()
    found = modules_at(model, ["module._orig_mod.stem"], role="student")
    assert found == {"module._orig_mod.stem": model.stem}


def test_a_layer_that_is_named_module_is_found():
    model = nn.ModuleDict({"module": nn.Linear(1, 1), "head": nn.Linear(1, 1)})
    assert modules_at(model, ["module"], role="student") == {"module": model["module"]}
    assert stripped("module.module.a.b") == "a.b"


def test_a_layer_that_runs_twice_is_refused():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model.append(model[1])
    with (
        pytest.raises(ModelError, match="`1` of the student runs more than once"),
        features_of(model, ["1"], role="student"),
    ):
        model(torch.rand(2, 3))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_of_a_recurrent_layer_the_outputs_are_read_not_the_state(kind):
    model, x = nn.ModuleDict({"layer": kind(3, 4, batch_first=True)}), torch.rand(2, 5, 3)
    with features_of(model, ["layer"], role="student") as features:
        outputs, _ = model["layer"](x)
    assert torch.equal(features["layer"], outputs)
    assert features["layer"].shape == (2, 5, 4)


def test_of_attention_the_outputs_are_read_not_the_weights():
    model, x = nn.ModuleDict({"layer": nn.MultiheadAttention(4, 2)}), torch.rand(2, 5, 4)
    with features_of(model, ["layer"], role="student") as features:
        outputs, _ = model["layer"](x, x, x)
    assert torch.equal(features["layer"], outputs)


class _Packs(nn.Module):
    def forward(self, x):
        return nn.utils.rnn.pack_sequence([x[0], x[1]])


class _Names(nn.Module):
    def forward(self, x):
        return {"x": x}


@pytest.mark.parametrize(("layer", "found"), [(_Packs, "PackedSequence"), (_Names, "dict")])
def test_a_layer_that_returns_no_tensor_is_refused(layer, found):
    model = nn.Sequential(layer())
    with (
        pytest.raises(ModelError, match=f"`0` of the teacher returns {found}"),
        features_of(model, ["0"], role="teacher"),
    ):
        model(torch.rand(2, 3))


class _InPlace(nn.Module):
    """As residual networks are written: what a layer made is overwritten by what follows."""

    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True)
        self.second = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        out = self.act(self.conv(x))
        out = self.second(out)
        out += x
        return out


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_what_follows_in_place_does_not_change_what_was_read(mode):
    model, x = _InPlace(), torch.rand(2, 1, 6, 6)
    with mode(), features_of(model, ["conv", "act:input", "second"], role="teacher") as features:
        model(x)
    made = model.conv(x)
    assert (made < 0).any()
    assert torch.equal(features["conv"], made)
    assert torch.equal(features["act:input"], made)
    assert torch.equal(features["second"], model.second(made.relu()))


def test_gradients_of_what_was_read_reach_the_layer():
    model, x = _InPlace(), torch.rand(2, 1, 6, 6)
    with features_of(model, ["conv"], role="student") as features:
        model(x)
    features["conv"].sum().backward()
    assert model.conv.bias.grad.tolist() == pytest.approx([2 * 36] * 4)
