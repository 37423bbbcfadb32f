from __future__ import annotations

import logging
import warnings

import pytest

from kdeploy.quantization.silence import without_torch_noise


def test_other_warnings_and_records_come_through(caplog):
    with without_torch_noise():
        logging.getLogger("torchao").warning("a real problem")
        logging.getLogger("torchao").warning("Failed to load _C.so")
        with pytest.warns(FutureWarning, match="of our own"):
            warnings.warn("of our own", FutureWarning, stacklevel=1)
    assert [record.getMessage() for record in caplog.records] == ["a real problem"]
