"""What techniques that set zeros share."""

from __future__ import annotations

import dataclasses

import pytest
from torch import nn

from kdeploy.compress.contract import CompressContext
from kdeploy.compress.run import compress
from kdeploy.compress.sparsification import calibrating, tell
from kdeploy.data.contract import Split
from kdeploy.errors import NotCalibrated, OrderError
from kdeploy.sparsity.zeros import compressed_bytes


@pytest.fixture
def context(tiny_data):
    return CompressContext(data=tiny_data)


def test_a_quantized_model_is_refused_by_each(tiny_model, context):
    quantized = compress(tiny_model(), "int8_ptq", {}, context)
    for technique in ("two_four", "unstructured"):
        with pytest.raises(OrderError, match=f"`{technique}` changes float") as caught:
            compress(quantized, technique, {}, context)
        assert "before the step that quantizes" in caught.value.hint


def test_looking_at_data_needs_data(tiny_data):
    none = Split(x=tiny_data.train.x[:0], y=tiny_data.train.y[:0])
    empty = CompressContext(data=dataclasses.replace(tiny_data, train=none))
    with pytest.raises(NotCalibrated, match="no training items"):
        calibrating(empty, batches=1, batch_size=4)


def test_tells_sparsity_size_and_what_stayed_dense(context):
    before, after = nn.Sequential(nn.Linear(4, 2)), nn.Sequential(nn.Linear(4, 2))
    after[0].weight.data[0, :3] = 0
    tell(context, before, after, {"0": "for a test"})
    assert context.report == {
        "sparsity": [{"layer": "0", "weights": 8, "sparsity": 0.375}],
        "kept_dense": [{"layer": "0", "reason": "for a test"}],
        "compressed_bytes": {
            "before": compressed_bytes(before),
            "after": compressed_bytes(after),
            "by": "zlib at level 6, all tensors",
        },
    }
