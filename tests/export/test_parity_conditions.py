from __future__ import annotations

from dataclasses import replace

import onnx
import pytest
import torch
from torch import nn

from kdeploy.errors import ModelError, ParityFailed
from kdeploy.export.exporters.onnx_from_torch import onnx_from_torch
from kdeploy.export.parity import FLOAT_BOUND, check_parity
from kdeploy.export.parity_conditions import conditions, parity_of
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.registry import find
from tests.tiny.text import Next, items, sequences


class AnySize(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


def test_a_file_of_open_sizes_is_run_at_larger_ones_too(data, tmp_path):
    torch.manual_seed(0)
    model, items, path = AnySize().eval(), data((3, 8, 8)), tmp_path / "m.onnx"
    onnx_from_torch(model, torch.zeros(2, 3, 8, 8), path, dynamic=("height", "width"))
    check_parity(
        parity_of(path, "onnxruntime_cpu", model, items, dynamic=("height", "width")), name="m"
    )
    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["batch", 3, "height", "width"]

    class FixedMean(AnySize):
        def forward(self, x):
            return self.head(torch.relu(self.conv(x)).sum((2, 3)) / 64)

    other = FixedMean().eval()
    other.load_state_dict(model.state_dict())
    assert parity_of(path, "onnxruntime_cpu", other, items).max_abs < FLOAT_BOUND
    with pytest.raises(ParityFailed):
        check_parity(
            parity_of(path, "onnxruntime_cpu", other, items, dynamic=("width",)), name="m.onnx"
        )


def test_a_quantized_model_that_keeps_its_sizes_says_so(int8, exported):
    model, items = int8("shuffling")
    path = exported("shuffling")
    file = onnx.load(path)
    with pytest.raises(ModelError, match=r"cannot (run items of shape \(3, 24, 12\)|run an input)"):
        parity_of(path, "onnxruntime_cpu", model, items, dynamic=("height",))
    assert file.graph.input[0].type.tensor_type.shape.dim[2].dim_value == 12


def test_a_quantized_file_is_measured_against_itself_without_rounding(int8, exported):
    _, items = int8("squeezing")
    parity = parity_of(
        exported("squeezing"), "onnxruntime_cpu", OnnxModel(exported("squeezing")), items
    )
    assert parity.max_abs == 0
    assert FLOAT_BOUND < parity.bound < 0.5


@pytest.mark.parametrize(("vocabulary", "sizes"), [(11, [1, 3, 32]), (10**6, [1, 3]), (10**7, [1])])
def test_batches_are_as_large_as_answers_to_every_token_allow(vocabulary, sizes):
    texts = sequences()
    many = replace(texts, preprocessing=replace(texts.preprocessing, vocabulary=vocabulary))
    found = conditions(find("exporter", "onnx"), {}, Next(), many)["batch_sizes"]
    assert found == sizes
    # One answer an item is small, whatever the vocabulary.
    whole = items()
    large = replace(whole, preprocessing=replace(whole.preprocessing, vocabulary=vocabulary))
    assert conditions(find("exporter", "onnx"), {}, Next(), large)["batch_sizes"] == [1, 3, 32]
