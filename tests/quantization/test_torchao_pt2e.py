from __future__ import annotations

import subprocess
import sys


def test_importing_torchao_through_us_says_nothing():
    code = "import kdeploy.quantization.torchao_pt2e"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
