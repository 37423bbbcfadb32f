from __future__ import annotations

import copy
import logging
import warnings

import pytest
import torch

from kdeploy.quantization.suppress_warnings import without_torch_noise


def test_other_warnings_and_records_come_through(caplog):
    with without_torch_noise():
        logging.getLogger("torchao").warning("a real problem")
        logging.getLogger("torchao").warning("Failed to load _C.so")
        with pytest.warns(FutureWarning, match="of our own"):
            warnings.warn("of our own", FutureWarning, stacklevel=1)
    assert [record.getMessage() for record in caplog.records] == ["a real problem"]


def test_tracing_a_recurrent_layer_is_silent_and_leaves_it_as_it_was():
    layer = torch.nn.GRU(3, 4, batch_first=True).eval()
    x = torch.randn(2, 5, 3)
    expected = layer(x)[0]
    traced = copy.deepcopy(layer)
    with without_torch_noise():
        torch.export.export(traced, (x,))
    assert torch.equal(traced(x)[0], expected)
