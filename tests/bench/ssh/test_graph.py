from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from kdeploy.bench.ssh.device.graph import operators_of
from kdeploy.runtimes.onnx_session import OnnxSession, operators_in
from kdeploy.runtimes.onnxruntime_cpu import OnnxruntimeCpu


def test_counts_what_the_library_counts(float_file, int8_file):
    for path in (float_file, int8_file):
        assert operators_of(path) == operators_in(onnx.load(path).graph.node)


def test_counts_in_graphs_inside_nodes(tmp_path):
    value = helper.make_tensor_value_info
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(operator, ["x"], [name])], name, [], [value(name, 1, [2])]
        )
        for name, operator in (("then", "Relu"), ("else", "Neg"))
    }
    node = helper.make_node("If", ["c"], ["y"], **branches)
    inputs = [value("c", TensorProto.BOOL, []), value("x", 1, [2])]
    graph = helper.make_graph([node], "g", inputs, [value("y", 1, [2])])
    onnx.save(helper.make_model(graph), tmp_path / "if.onnx")
    assert operators_of(tmp_path / "if.onnx") == {"If": 1, "Neg": 1, "Relu": 1}


def test_the_executed_graph_is_the_one_that_is_proved_here(int8_file, tmp_path):
    runtime = OnnxruntimeCpu(threads=1)
    runtime.open(int8_file)
    options = runtime._options()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "executed.onnx")
    OnnxSession(int8_file, lambda: options, ["CPUExecutionProvider"])
    assert operators_of(tmp_path / "executed.onnx") == runtime.proof_of_use().operators


def test_a_file_that_is_cut_off_is_refused(float_file, tmp_path):
    (tmp_path / "cut.onnx").write_bytes(float_file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a whole ONNX file"):
        operators_of(tmp_path / "cut.onnx")
