from __future__ import annotations

import logging
import subprocess
import sys
import warnings

import pytest

from kdeploy.quantization.silence import without_torch_noise


def test_importing_torchao_through_us_says_nothing():
    code = "import kdeploy.quantization.torchao_pt2e"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_other_warnings_and_records_come_through(caplog):
    with without_torch_noise():
        logging.getLogger("torchao").warning("a real problem")
        logging.getLogger("torchao").warning("Failed to load _C.so")
        with pytest.warns(FutureWarning, match="of our own"):
            warnings.warn("of our own", FutureWarning, stacklevel=1)
    assert [record.getMessage() for record in caplog.records] == ["a real problem"]
