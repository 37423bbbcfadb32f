from __future__ import annotations

import logging
import sys
from collections import Counter

import onnx
import pytest

from kdeploy.errors import MissingDependency
from kdeploy.onnx_graph.optimization import slimmed

onnxslim = pytest.importorskip("onnxslim")


def quantizers(model):
    return Counter(n.op_type for n in model.graph.node if "Linear" in n.op_type)


def test_a_quantized_graph_keeps_its_quantizers_and_the_given_one_is_left_alone(exported):
    given = onnx.load(exported("squeezing"))
    before = given.SerializeToString()
    assert quantizers(slimmed(given)) == quantizers(given)
    assert given.SerializeToString() == before


def test_an_optimiser_that_folds_weights_back_to_floats_is_left_out(exported, monkeypatch, caplog):
    given = onnx.load(exported("squeezing"))

    def folds(model):
        nodes = [n for n in model.graph.node if n.op_type != "DequantizeLinear"]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        return model

    monkeypatch.setattr(onnxslim, "slim", folds)
    monkeypatch.setattr(onnx.checker, "check_model", lambda model: None)
    with caplog.at_level(logging.WARNING):
        assert slimmed(given) is given
    assert "would change quantizers" in caplog.text


def test_one_that_fails_is_left_out_with_its_reason(exported, monkeypatch, caplog):
    def fails(model):
        raise RuntimeError("no such pattern")

    given = onnx.load(exported("squeezing"))
    monkeypatch.setattr(onnxslim, "slim", fails)
    with caplog.at_level(logging.WARNING):
        assert slimmed(given) is given
    assert "no such pattern" in caplog.text


def test_one_that_is_not_installed_names_its_pip_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxslim", None)
    with pytest.raises(MissingDependency, match="onnxslim") as caught:
        slimmed(onnx.ModelProto())
    assert "pip install" in caught.value.hint
