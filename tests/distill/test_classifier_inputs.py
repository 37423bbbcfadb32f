"""Losses that compare items take what the classifiers see where no layers are named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.distill.classifier_inputs import classifier
from kdeploy.distill.config import DistillConfig
from kdeploy.distill.default_layers import with_layers
from kdeploy.distill.feature_hooks import features_of
from kdeploy.distill.loss_specs import loss_specs_of
from kdeploy.distill.losses.rkd import rkd
from kdeploy.distill.run import distill
from kdeploy.errors import ModelError
from kdeploy.training.fit import FitContext

X = torch.rand(6, 1, 12, 12)


def fully_convolutional(width):
    return nn.Sequential(
        nn.Conv2d(1, width, 3),
        nn.ReLU(),
        nn.Conv2d(width, 4, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


class Hidden(nn.Module):
    """Has a linear layer before its classifier, defined after it, and one that never runs."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(5, 4)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(144, 5), nn.ReLU())
        self.unused = nn.Linear(3, 4)

    def forward(self, x):
        return self.fc(self.body(x)).log_softmax(1)


def test_the_classifier_is_the_last_that_runs_and_makes_the_outputs(tiny_model):
    assert classifier(Hidden(), X, role="student") == "fc"
    assert classifier(tiny_model(), X, role="student") == "head"
    assert classifier(fully_convolutional(5), X, role="student") == "2"


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (nn.Sequential(nn.Conv2d(1, 4, 12), nn.Flatten()), "no linear layer and no 1x1"),
        (
            nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 4, 12), nn.Flatten()),
            r"`0`, makes \(6, 3, 12, 12\) of \(6, 1, 12, 12\), and its outputs are \(6, 4\)",
        ),
    ],
)
def test_where_it_is_not_plain_the_layers_have_to_be_named(model, found):
    with pytest.raises(ModelError, match=f"classifier of the teacher.*{found}") as caught:
        classifier(model, X, role="teacher")
    assert "layers" in caught.value.hint


def test_the_input_of_a_layer_can_be_tapped(tiny_model):
    model = tiny_model()
    with features_of(model, ["head:input", "head"], role="student") as features:
        logits = model(X)
    torch.testing.assert_close(model.head(features["head:input"]), logits)
    assert torch.equal(features["head"], logits)


@pytest.mark.parametrize("loss", ["rkd", "similarity", "correlation", "crd"])
def test_a_relation_is_learned_without_layers_as_with_the_classifiers_named(
    loss, tiny_data, tiny_model
):
    def taught(**own):
        result = distill(
            tiny_model(seed=1, width=6),
            tiny_model(width=8),
            tiny_data,
            FitContext(seed=0),
            DistillConfig(losses=[{loss: own}], epochs=1, batch_size=32),
        )
        return result, [p.detach().numpy() for p in result.model.parameters()]

    result, weights = taught()
    named, same = taught(layers={"head:input": "head:input"})
    assert result.messages[0] == (
        f"`{loss}`: no `layers` named, so the classifier's input is compared: "
        "`head:input: head:input`"
    )
    assert not [text for text in named.messages if "layers" in text]
    assert all(np.array_equal(a, b) for a, b in zip(weights, same, strict=True))
    other = taught(layers={"blocks.0": "blocks.0"})[1]
    assert not all(np.array_equal(a, b) for a, b in zip(weights, other, strict=True))


def test_networks_of_different_kinds_are_compared_by_vectors():
    student, teacher = fully_convolutional(5).eval(), Hidden().eval()
    (loss_spec,), _ = with_layers(
        loss_specs_of(DistillConfig(losses=[{"rkd": {}}]).losses), student, teacher, X
    )
    assert loss_spec.layers == {"2:input": "fc:input"}
    with (
        features_of(student, ["2:input"], role="student") as own,
        features_of(teacher, ["fc:input"], role="teacher") as other,
        torch.no_grad(),
    ):
        student(X), teacher(X)
    value = rkd(own["2:input"], other["fc:input"], torch.zeros(6))
    assert 0 < float(value) < 100


def test_a_file_has_no_inner_layers():
    class File(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :4]

    for teacher in (None, File()):
        with pytest.raises(ModelError, match="the teacher is a file") as caught:
            with_layers(
                loss_specs_of(DistillConfig(losses=[{"rkd": {}}]).losses), Hidden(), teacher, X
            )
        assert "kd" in caught.value.hint
