import pytest
import torch
from torch import nn

from kdeploy.errors import ModelError
from kdeploy.pipeline.storing import store_model
from kdeploy.store.artifact import Store
from kdeploy.store.model_io import rebuild
from kdeploy.store.references import ModelReference, build_model

BUILD = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.out, self.shift = nn.Linear(144, 4), torch.zeros(4)

    def forward(self, x):
        return self.out(x.flatten(1)) + self.shift

def net():
    return Net()
"""


@pytest.fixture
def reference(tmp_path):
    (tmp_path / "build.py").write_text(BUILD)
    return ModelReference(build="build.py:net", folder=tmp_path)


def test_what_is_stored_is_what_was_made(reference, tiny_data, tmp_path):
    model = build_model(reference)
    nn.init.normal_(model.out.weight)
    model.train()
    facts = store_model(tmp_path, model, reference, tiny_data)
    x = torch.rand(3, 1, 12, 12)
    assert torch.equal(rebuild(tmp_path, facts, None)(x), model(x))
    assert model.training


@pytest.mark.parametrize("moved", [0.02, float("nan")])
def test_a_model_that_would_not_come_back_leaves_nothing(reference, tiny_data, tmp_path, moved):
    model = build_model(reference)
    with torch.no_grad():
        model.out.weight.zero_()
        model.out.bias.fill_(1)
    model.shift = torch.tensor([0, 0, 0, moved])  # as a training changes an attribute
    store = Store(root=tmp_path / "store")
    with pytest.raises(ModelError, match=r"`shift` is not in its state_dict; nothing was stored"):
        store.add(
            {"id": "abc", "kind": "torch"},
            lambda folder: {"model": store_model(folder, model, reference, tiny_data)},
        )
    assert list((tmp_path / "store").iterdir()) == []


def test_a_model_that_changes_its_input_is_compared_on_equal_inputs(tiny_data, tmp_path):
    text = BUILD.replace("return self.out(x", "return self.out(x.mul_(2)")
    (tmp_path / "build.py").write_text(text)
    reference = ModelReference(build="build.py:net", folder=tmp_path)
    assert store_model(tmp_path, build_model(reference), reference, tiny_data)["edits"] == []
