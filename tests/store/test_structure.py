"""Structure: whatever a technique does to a model can be told as JSON and done again."""

import copy
import json

import pytest
import torch
from torch import nn

from kdeploy.errors import ModelError
from kdeploy.store.structure import difference, replay
from kdeploy.torch_module.complexity import count_parameters


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = 4
        self.sizes = (8, 8)
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU()
        self.skip = None
        self.scale = nn.Parameter(torch.ones(8, 1, 1))
        self.register_buffer("shift", torch.zeros(8, 1, 1))
        self.tail = nn.Sequential(nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Dropout(0.1))
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        x = self.act(self.norm(self.conv(x))) * self.scale + self.shift
        if self.skip is not None:
            x = self.skip(x)
        return self.fc(self.tail(x).mean((2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def round_trip(fresh, model):
    """Rebuild `model` from JSON and its tensors, check it bit for bit, return edits and twin."""
    before = copy.deepcopy(fresh.state_dict())
    edits = difference(fresh, model)
    assert all(
        torch.equal(a, b) for a, b in zip(before.values(), fresh.state_dict().values(), strict=True)
    )
    edits = json.loads(json.dumps(edits, sort_keys=True))
    twin = replay(copy.deepcopy(fresh), edits)
    twin.load_state_dict(model.state_dict(), strict=True)
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        assert torch.equal(twin.eval()(x), model.eval()(x))
    assert difference(twin, model) == []
    assert edits == json.loads(json.dumps(difference(fresh, model)))
    return edits, twin


def narrow(model, width=5):
    model.conv.weight = nn.Parameter(model.conv.weight.data[:width])
    model.conv.out_channels = width
    for name in ("weight", "bias"):
        setattr(model.norm, name, nn.Parameter(getattr(model.norm, name).data[:width]))
    for name in ("running_mean", "running_var"):
        setattr(model.norm, name, getattr(model.norm, name)[:width])
    model.norm.num_features = width
    model.scale = nn.Parameter(model.scale.data[:width])
    model.shift = model.shift[:width]
    model.tail[0].weight = nn.Parameter(model.tail[0].weight.data[:, :width])
    model.tail[0].in_channels = width
    return model


def test_an_unchanged_model_has_no_edits(net):
    assert difference(net, copy.deepcopy(net)) == []


def test_narrowed_layers_raw_parameters_and_buffers_come_back(net):
    edits, twin = round_trip(net, narrow(copy.deepcopy(net)))
    assert twin.conv.out_channels == 5
    assert twin.norm.num_features == 5
    assert {"path": "conv", "attributes": {"out_channels": 5}} in edits
    assert {edit["path"] for edit in edits} == {"", "conv", "norm", "tail.0"}


def test_one_layer_becomes_two(net):
    model = copy.deepcopy(net)
    model.fc = nn.Sequential(nn.Linear(6, 2, bias=False), nn.Linear(2, 4))
    edits, twin = round_trip(net, model)
    assert edits[1] == {
        "path": "fc.0",
        "replace": {
            "type": "Linear",
            "arguments": {"in_features": 6, "out_features": 2, "bias": False},
        },
    }
    assert twin.fc[0].bias is None


def test_a_bias_appears_and_another_goes(net):
    model = copy.deepcopy(net)
    model.conv.bias = nn.Parameter(torch.randn(8))
    model.fc.bias = None
    _, twin = round_trip(net, model)
    assert twin.fc.bias is None


def test_children_are_removed_emptied_and_filled(net):
    model = copy.deepcopy(net)
    model.norm = nn.Identity()
    del model.tail[2]
    model.skip = nn.Conv2d(8, 8, 3, padding=1, groups=8, padding_mode="reflect")
    round_trip(net, model)
    emptied = copy.deepcopy(model)
    emptied.skip = None
    edits, _ = round_trip(model, emptied)
    assert edits == [{"path": "skip", "replace": None}]


def test_plain_attributes_come_back_with_their_type(net):
    model = copy.deepcopy(net)
    model.heads, model.sizes, model.tail[2].p = 2, (5, 3), 0.25
    _, twin = round_trip(net, model)
    assert (twin.heads, twin.sizes, twin.tail[2].p) == (2, (5, 3), 0.25)


def test_shared_modules_and_tied_tensors_stay_shared(net):
    model = copy.deepcopy(net)
    model.skip = nn.Conv2d(8, 8, 1)
    model.tail[0] = nn.Conv2d(8, 8, 1)
    model.tail[0].weight = model.skip.weight
    model.tail.insert(1, model.act)
    model.fc = nn.Linear(8, 4)
    _, twin = round_trip(net, model)
    assert twin.tail[0].weight is twin.skip.weight
    assert twin.tail[1] is twin.act
    assert count_parameters(twin) == count_parameters(model)


def test_tied_tensors_can_part(net):
    net.skip = nn.Conv2d(8, 6, 1)
    net.tail = nn.Sequential(nn.Conv2d(8, 6, 1))
    net.skip.weight = net.tail[0].weight
    model = copy.deepcopy(net)
    model.skip.weight = nn.Parameter(model.skip.weight.data + 1)
    twin = replay(copy.deepcopy(net), difference(net, model))
    twin.load_state_dict(model.state_dict())
    assert not torch.equal(twin.skip.weight, twin.tail[0].weight)


def test_the_root_itself_can_be_replaced():
    fresh, model = nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 3))
    twin = replay(fresh, difference(fresh, model))
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(torch.ones(1, 3)), model(torch.ones(1, 3)))


def test_another_number_type_is_kept(net):
    model = copy.deepcopy(net).to(torch.float64)
    twin = replay(copy.deepcopy(net), difference(net, model))
    assert twin.conv.weight.dtype is torch.float64


def test_recurrent_layers_keep_their_flat_list():
    fresh, model = nn.LSTM(3, 4, bias=True), nn.LSTM(3, 6, bias=True)
    twin = replay(fresh, difference(fresh, model))
    twin.load_state_dict(model.state_dict())
    x = torch.randn(5, 2, 3)
    assert torch.equal(twin(x)[0], model(x)[0])


def test_random_numbers_are_not_used_up(net):
    model = copy.deepcopy(net)
    model.fc = nn.Sequential(nn.Linear(6, 2), nn.Linear(2, 4))
    edits = difference(net, model)
    state = torch.get_rng_state()
    replay(net, edits)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_layer_of_ones_own_cannot_be_stored(net):
    model = copy.deepcopy(net)
    model.act = Net()
    with pytest.raises(ModelError, match="`act` became a Net"):
        difference(net, model)


def test_a_change_that_edits_cannot_tell_is_refused(net):
    model = copy.deepcopy(net)
    model._modules["fc"] = model._modules.pop("fc")  # to the end: same
    model._modules["conv"] = model._modules.pop("conv")
    with pytest.raises(ModelError, match="the order of modules"):
        difference(net, model)


@pytest.mark.parametrize(
    "edit",
    [
        {"path": "fc", "replace": {"type": "os.system", "arguments": {}}},
        {"path": "fc", "replace": {"type": "Linear", "arguments": {"features": 3}}},
        {"path": "nowhere.fc", "attributes": {"p": 1}},
        {"path": "fc", "attributes": {"forward": 1}},
        {"path": "fc", "attributes": {"_modules": []}},
        {"path": "fc", "attributes": {"__class__": "x"}},
        {"path": "fc", "tensors": {"weight": {"kind": "parameter", "shape": [2], "dtype": "load"}}},
        {"path": "fc", "execute": "x"},
        {"path": "fc"},
    ],
)
def test_an_edit_that_does_not_fit_is_one_error(net, edit):
    with pytest.raises(ModelError, match="does not fit the model"):
        replay(net, [edit])
