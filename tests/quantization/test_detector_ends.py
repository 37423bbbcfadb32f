"""INT8 of a detector's end: boxes in pixels and scores in 0..1 in one tensor, which is returned."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from benchmarks.shared.one_scale import OneScale
from kdeploy.export.exporters.onnx_from_torch import onnx_from_torch
from kdeploy.quantization.onnx_static import quantize_file
from kdeploy.quantization.pt2e import QuantizedModel, observe, pt2e
from tests.tiny.weight_bits import is_reduced

THRESHOLD = 0.5
PIXELS = 640.0
OPTIONS = ({}, {"bins": 8}, {"is_raw": True})


class Detector(nn.Module):
    """A head whose boxes reach to 640 and whose scores are probabilities, joined at the end."""

    def __init__(self, *, bins=0, is_raw=False):
        super().__init__()
        self.is_raw = is_raw
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU())
        self.boxes, self.scores = nn.Conv2d(16, 4 * max(bins, 1), 1), nn.Conv2d(16, 3, 1)
        self.bins = bins
        self.mean = nn.Conv2d(max(bins, 1), 1, 1, bias=False).requires_grad_(False)
        self.mean.weight.data[:] = torch.arange(max(bins, 1)).reshape(1, -1, 1, 1)

    def forward(self, x):
        x = self.stem(x)
        if self.is_raw:  # what the two convolutions make, joined: logits beside pixels
            return torch.cat([self.boxes(x), self.scores(x)], 1).flatten(2)
        return torch.cat([self.decoded(self.boxes(x)), self.scores(x).sigmoid().flatten(2)], 1)

    def decoded(self, raw):
        if not self.bins:
            return raw.flatten(2).sigmoid() * PIXELS
        sides = raw.flatten(2).unflatten(1, (4, self.bins)).transpose(1, 2).softmax(1)
        return self.mean(sides).squeeze(1) * (PIXELS / self.bins)


@pytest.fixture
def detector():
    def make(**options):
        torch.manual_seed(0)
        model = Detector(**options).eval()
        with torch.no_grad():
            model.scores.weight.mul_(4)
            model.boxes.weight.mul_(PIXELS if model.is_raw else 1)
        return model, torch.randn(16, 3, 8, 8)

    return make


def share_kept(expected, found):
    """Return the share of cells above the threshold that stay so, their boxes within 2 %."""
    boxes, scores = np.split(expected, [4], axis=1)
    other_boxes, other_scores = np.split(found, [4], axis=1)
    is_found = scores.max(1) > THRESHOLD
    is_near = np.abs(boxes - other_boxes).max(1) < 0.02 * PIXELS
    is_kept = (other_scores.max(1) > THRESHOLD) & (scores.argmax(1) == other_scores.argmax(1))
    assert is_found.sum() > 100
    return float((is_kept & is_near)[is_found].mean())


def answer(path, x):
    session = onnxruntime.InferenceSession(path)
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


@pytest.mark.parametrize("profile", ["cpu", "arm", "tensorrt"])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_detector_keeps_its_detections_in_int8(detector, tmp_path, profile, options):
    model, x = detector(**options)
    ranges = observe(model, x[:2], [x], choice="min_max")
    small = QuantizedModel(
        model, x[:2], ranges=ranges, profile=profile, reduce_range=is_reduced(profile)
    )
    onnx_from_torch(small, x[:2], tmp_path / "m.onnx", profile=profile)
    with torch.no_grad():
        expected = model(x).numpy()
    assert share_kept(expected, small(x).numpy()) >= 0.95
    assert share_kept(expected, answer(tmp_path / "m.onnx", x)) >= 0.95


@pytest.mark.parametrize("profile", ["cpu", "tensorrt"])
@pytest.mark.parametrize("options", OPTIONS)
def test_so_does_a_file(detector, tmp_path, profile, options):
    model, x = detector(**options)
    onnx_from_torch(model, x[:2], tmp_path / "float.onnx")
    small = tmp_path / "int8.onnx"
    settings = {"profile": profile, "reduce_range": is_reduced(profile)}
    quantize_file(tmp_path / "float.onnx", small, [x], observer="min_max", **settings)
    assert share_kept(answer(tmp_path / "float.onnx", x), answer(small, x)) >= 0.95


def test_one_scale_over_all_of_it_loses_them(detector):
    model, x = detector()
    with torch.no_grad():
        naive = OneScale.calibrated(model, [x])
        assert share_kept(model(x).numpy(), naive(x).numpy()) < 0.5


def test_what_an_integer_layer_reads_keeps_one_scale(detector):
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            return self.c(torch.cat([self.a(x) * 100, self.b(x)], 1))

    torch.manual_seed(0)
    model, x = Joined().eval(), torch.randn(8, 3, 8, 8)
    ranges = observe(model, x[:2], [x], choice="min_max")
    small = QuantizedModel(model, x[:2], ranges=ranges, profile="cpu")
    quantized = [n for n in small.graph.graph.nodes if "quantize_per" in str(n.target)]
    assert any("cat" in str(n.args[0]) for n in quantized)


def test_a_model_that_was_stored_before_computes_as_it_did(detector):
    model, x = detector(is_raw=True)
    ranges = observe(model, x[:2], [x], choice="min_max")
    small = QuantizedModel(model, x[:2], ranges=ranges, profile="cpu")
    state = small.state()
    torch.testing.assert_close(pt2e(model, state, x[:2])(x), small(x), rtol=0, atol=0)
    del state["keeps_apart"]
    before = pt2e(model, state, x[:2])
    assert share_kept(model(x).detach().numpy(), before(x).numpy()) < 0.5
