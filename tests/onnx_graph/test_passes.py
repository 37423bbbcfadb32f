from __future__ import annotations

import pytest
from onnx import TensorProto, helper

from kdeploy.errors import GraphPassFailed, ModelError
from kdeploy.onnx_graph.passes import drop_unused, graph_pass, rewritten, sort


def program():
    """Return x -> Relu -> Abs -> y beside a Neg that nothing reads."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n"]) for n in "xy"]
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("Neg", ["r"], ["n"], name="neg"),
        helper.make_node("Abs", ["r"], ["y"], name="abs"),
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def kinds(written):
    return [node.op_type for node in written.graph.node]


def test_passes_run_one_behind_the_other_and_leave_what_they_were_given():
    given = program()
    assert kinds(rewritten(given, drop_unused, sort)) == ["Relu", "Abs"]
    assert kinds(given) == ["Relu", "Neg", "Abs"]


def test_what_only_a_branch_reads_is_used():
    given = program()
    inner = helper.make_node("Identity", ["n"], ["b"])
    result = helper.make_tensor_value_info("b", TensorProto.FLOAT, ["n"])
    branches = {
        f"{name}_branch": helper.make_graph([inner], name, [], [result])
        for name in ("then", "else")
    }
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    given.graph.input.append(condition)
    given.graph.node.append(helper.make_node("If", ["c"], ["i"], **branches))
    given.graph.output.append(helper.make_tensor_value_info("i", TensorProto.FLOAT, ["n"]))
    assert kinds(rewritten(given, drop_unused)) == ["Relu", "Neg", "Abs", "If"]


@graph_pass()
def break_it(model):
    """Ask for what no graph has."""
    raise KeyError(model.graph.name)


@graph_pass()
def rename(model):
    """Call the output something else."""
    model.graph.outputs[0].name = "z"


@graph_pass(requires=lambda model: "an LSTM")
def needs_an_lstm(model):
    """Do nothing."""


@graph_pass(ensures=lambda model: "`neg` is still there")
def promises_to_remove(model):
    """Do nothing."""


@pytest.mark.parametrize(
    ("failing", "reason"),
    [
        (break_it, "KeyError: 'g'"),
        (rename, "changed the ends of the graph"),
        (needs_an_lstm, "requires something else: an LSTM"),
        (promises_to_remove, "promises: `neg` is still there"),
    ],
)
def test_a_failure_names_the_pass_and_those_before_it(failing, reason):
    with pytest.raises(GraphPassFailed) as raised:
        rewritten(program(), sort, drop_unused, failing)
    assert f"`{failing.name}`" in raised.value.message
    assert "after sort, drop_unused" in raised.value.message
    assert reason in raised.value.message
    assert raised.value.hint


def test_an_error_that_says_what_is_wrong_stays_what_it_is():
    @graph_pass()
    def refuse(model):
        raise ModelError("a field is wrong", hint="export it again")

    with pytest.raises(ModelError, match="a field is wrong"):
        rewritten(program(), refuse)


def test_parameters_are_a_part_of_the_name():
    @graph_pass()
    def call_it(model, *, name):
        model.graph.name = name

    one = call_it.with_parameters(name="h")
    assert one.name == "call_it(name=h)"
    assert rewritten(program(), one).graph.name == "h"
