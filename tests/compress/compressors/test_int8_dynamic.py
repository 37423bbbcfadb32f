from __future__ import annotations

import pytest
import torch
from torch import nn

from kdeploy.compress.compressors.int8_dynamic import int8_dynamic, is_dynamic
from kdeploy.compress.compressors.int8_ptq import int8_ptq
from kdeploy.compress.contract import CompressContext
from kdeploy.errors import ModelError, OrderError
from kdeploy.export.run import export
from tests.tiny.text import Classifier, items


def test_a_text_model_passes_the_parity_gate_as_a_file(tmp_path):
    torch.manual_seed(0)
    texts = items()
    context = CompressContext(data=texts)
    small = int8_dynamic(Classifier().eval(), context, ignore=("words",))
    rows = context.report["int8_dynamic"]
    assert {r["weights"] for r in rows} == {"INT8", "float"}
    assert all(bool(r["reason"]) == (r["weights"] == "float") for r in rows)
    result = export(small, "onnx", {}, texts, tmp_path / "m.onnx")
    assert result.max_abs < 1e-3


def test_a_model_without_products_is_refused_with_its_layers(tiny_data):
    model = nn.Sequential(nn.Conv2d(1, 4, 12), nn.Flatten()).eval()
    with pytest.raises(ModelError, match="`0`: convolutions"):
        int8_dynamic(model, CompressContext(data=tiny_data))


def test_quantizing_twice_is_refused(tiny_model, tiny_data):
    context = CompressContext(data=tiny_data)
    small = int8_dynamic(tiny_model(), context)
    is_dynamic(small)
    for technique in (int8_dynamic, int8_ptq):
        with pytest.raises(OrderError, match="quantized already"):
            technique(small, context)
    with pytest.raises(AssertionError):
        is_dynamic(small.base)
