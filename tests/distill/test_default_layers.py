"""Which layers are compared where a recipe names none."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from kdeploy.distill.config import DistillConfig
from kdeploy.distill.default_layers import with_layers
from kdeploy.distill.loss_specs import loss_specs_of
from kdeploy.distill.run import distill
from kdeploy.errors import ModelError
from kdeploy.registry import techniques
from kdeploy.training.fit import FitContext

X = torch.rand(2, 1, 16, 16)
OF_MAPS = sorted(
    name
    for name, t in techniques("loss").items()
    if t.facts.get("needs", "logits") != "logits"
    and not t.facts.get("tokens")
    and not t.facts.get("of_items")
    and t.facts.get("tasks", ("classification",))[0] == "classification"
)


class Detector(nn.Module):
    """Two strides, each with features of its own and two heads, and a map of no output."""

    def __init__(self, width):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, stride=2, padding=1)
        self.four = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.eight = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.act = nn.ReLU()
        self.neck = nn.Conv2d(width, width, 1)
        self.boxes = nn.ModuleList(nn.Conv2d(width, 4, 1) for _ in range(2))
        self.scores = nn.ModuleList(nn.Conv2d(width, 3, 1) for _ in range(2))

    def forward(self, x):
        four = self.act(self.four(self.stem(x)))
        eight = self.act(self.eight(four))
        maps = [self.neck(four), eight]
        scores = [head(x) for head, x in zip(self.scores, maps, strict=True)]
        # Made last, and no outputs themselves.
        boxes = [functional.softplus(head(x)) for head, x in zip(self.boxes, maps, strict=True)]
        return {"boxes": boxes, "scores": scores}


class Segmenter(nn.Module):
    """Logits at a quarter of the size, enlarged to the input's."""

    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
        )
        self.classify = nn.Conv2d(width, 3, 1)

    def forward(self, x):
        return functional.interpolate(self.classify(self.body(x)), x.shape[2:], mode="bilinear")


def chosen(loss, student, teacher, x=X):
    (spec,), said = with_layers(
        loss_specs_of(DistillConfig(losses=[{loss: {}}]).losses), student, teacher, x
    )
    return spec.layers, said


def test_of_a_detector_they_are_the_last_features_of_each_stride():
    layers, said = chosen("pkd", Detector(6), Detector(8))
    # At stride 8 the shared activation ran twice: the convolution before it is the last plain one.
    assert layers == {"neck": "neck", "eight": "eight"}
    assert said == [
        "`pkd`: no `layers` named, so the last features of each size are compared: "
        "`neck: neck`, `eight: eight`"
    ]


def test_where_logits_are_enlarged_they_are_the_last_features_before_them():
    assert chosen("cwd", Segmenter(4), Segmenter(8))[0] == {"body.2": "body.2"}


@pytest.mark.parametrize("model", [Segmenter, Detector])
def test_relations_of_items_are_read_from_maps_where_there_is_no_classifier(model):
    layers, said = chosen("rkd", model(4), model(8))
    assert layers
    assert "last features" in said[0]


def test_of_a_classifier_they_are_the_last_maps_of_each_size(tiny_model):
    x = torch.rand(2, 1, 12, 12)
    layers, _ = chosen("attention", tiny_model(width=4), tiny_model(width=8), x)
    assert layers
    assert all(own == other for own, other in layers.items())


def test_without_a_common_size_they_have_to_be_named():
    def of(stride):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=stride), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )

    with pytest.raises(ModelError, match="no feature maps of one size: 14x14 and 5x5") as e:
        chosen("attention", of(1), of(3))
    assert "layers" in e.value.hint


@pytest.mark.parametrize("loss", OF_MAPS)
def test_every_loss_on_features_trains_without_layers(loss, tiny_data, tiny_model):
    width = 4 if loss == "fsp" else 8  # which compares equal widths
    result = distill(
        tiny_model(seed=1, width=4),
        tiny_model(width=width),
        tiny_data,
        FitContext(seed=0),
        DistillConfig(losses=[{loss: {}}], epochs=1, batch_size=32),
    )
    assert "no `layers` named" in result.messages[0]
    assert result.fit.history[0].losses[loss] > 0
