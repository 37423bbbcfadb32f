"""An export that fails at the end keeps all else, and is told with its own exit code."""

from __future__ import annotations

import pytest

from kdeploy.errors import ParityFailed
from kdeploy.pipeline.failures import Failure, kept_for_later


def test_an_error_is_kept_with_its_place():
    failures: list[Failure] = []
    with kept_for_later(failures, "export", "onnx_fp16", "student"):
        raise ParityFailed("it differs", hint="look")
    with kept_for_later(failures, "export", "onnx", "student"):
        pass
    (failure,) = failures
    assert failure.reason == "export `onnx_fp16` of student failed: it differs"
    assert failure.to_dict()["error"] == "ParityFailed"
    assert failure.to_dict()["hint"] == "look"


def test_ctrl_c_is_no_failure():
    with pytest.raises(KeyboardInterrupt), kept_for_later([], "export", "onnx", "student"):
        raise KeyboardInterrupt
