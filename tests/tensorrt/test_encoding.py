# ruff: noqa: F811 - fixtures of another room
from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdeploy.errors import ModelError
from kdeploy.tensorrt.encoding import SIGNED, check_encoding
from tests.runtimes.conftest import float_file, int8_file  # noqa: F401


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "fits"),
    [
        ("QuantizeLinear", ["x", "scale", "signed"], {}, True),
        ("QuantizeLinear", ["x", "scale", "shifted"], {}, False),
        ("QuantizeLinear", ["x", "scale", "unsigned"], {}, False),
        ("QuantizeLinear", ["x", "scale"], {}, False),
        ("QuantizeLinear", ["x", "scale"], {"output_dtype": TensorProto.INT8}, True),
        ("DequantizeLinear", ["signed", "scale"], {}, True),
        ("DequantizeLinear", ["bias", "scale"], {}, False),
        ("DynamicQuantizeLinear", ["x"], {}, False),
    ],
)
def test_zero_points_are_signed_and_zero(operator, inputs, attributes, fits):
    stored = {
        "scale": np.float32(0.1),
        "signed": np.int8(0),
        "shifted": np.int8(1),
        "unsigned": np.uint8(0),
        "bias": np.int32(7),
    }
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in stored.items()]
    node = helper.make_node(operator, inputs, ["y"], **attributes)
    graph = helper.make_graph([node], "g", [], [], tensors)
    if fits:
        check_encoding("file", graph)
    else:
        with pytest.raises(ModelError, match="1 of its 1"):
            check_encoding("file", graph)


def test_the_types_are_those_of_onnx():
    assert {TensorProto.INT8, TensorProto.INT4, TensorProto.FLOAT8E4M3FN} == SIGNED


def test_files_for_processors_are_refused_and_float_ones_are_not(float_file, int8_file):
    check_encoding(float_file, onnx.load(float_file).graph)
    with pytest.raises(ModelError, match="quantized for processors"):
        check_encoding(int8_file, onnx.load(int8_file).graph)
