from __future__ import annotations

import sys

import pytest
from torch.onnx._internal.exporter import _registration as registration

from kdeploy.export.operator_table import operators_read_once


@pytest.fixture
def reads(monkeypatch):
    """Return how often the table was read; it is a list of one operator."""
    seen = []

    def read():
        seen.append("read")
        return ["operator"]

    monkeypatch.setattr(registration.onnxscript_apis, "get_torchlib_ops", read)
    return seen


def test_later_exports_share_what_the_first_one_read(reads):
    for _ in range(2):
        with operators_read_once():
            assert registration.onnxscript_apis.get_torchlib_ops() == ["operator"]
    assert reads == ["read"]


def test_outside_of_exports_pytorch_is_as_it_was(reads):
    before = registration.onnxscript_apis.get_torchlib_ops
    with pytest.raises(ZeroDivisionError), operators_read_once():
        raise ZeroDivisionError
    assert registration.onnxscript_apis.get_torchlib_ops is before


def test_a_pytorch_that_keeps_it_elsewhere_exports_without(reads, monkeypatch):
    monkeypatch.setitem(sys.modules, registration.__name__, None)
    with operators_read_once():
        registration.onnxscript_apis.get_torchlib_ops()
        registration.onnxscript_apis.get_torchlib_ops()
    assert reads == ["read", "read"]
