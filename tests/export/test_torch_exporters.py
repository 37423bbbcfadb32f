from __future__ import annotations

import onnx
import pytest
import torch
from torch import nn

from kdeploy.errors import ModelError
from kdeploy.export.io_signature import FlattenOutputs, IOSignature, ends_of
from kdeploy.export.torch_exporters import export_program, export_trace

PLAIN = IOSignature(inputs=("input",), outputs=("output",))


def test_several_inputs_each_have_an_open_batch():
    model, example = nn.Bilinear(2, 3, 4).eval(), (torch.ones(2, 2), torch.ones(2, 3))
    ends = ends_of(model, example)
    program = export_program(
        FlattenOutputs(model).eval(), example, ends, opset=18, axes={}, optimize=True
    )
    assert [i.name for i in program.graph.input] == ["input1", "input2"]
    assert {i.type.tensor_type.shape.dim[0].dim_param for i in program.graph.input} == {"batch"}


def test_the_older_one_says_why_it_is_asked_and_opens_the_batch(caplog):
    because = ModelError("the newer one met a branch", hint="none")
    program = export_trace(
        nn.Linear(3, 2).eval(), (torch.ones(2, 3),), PLAIN, opset=18, because=because
    )
    assert "the newer one met a branch; PyTorch's older exporter" in caplog.text
    assert program.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    onnx.checker.check_model(program)


def test_where_both_fail_the_newer_ones_reason_is_the_error(caplog):
    class Net(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x)

    because = ModelError("no bessel_j0", hint="none")
    with pytest.raises(ModelError, match="no bessel_j0"):
        export_trace(Net().eval(), (torch.ones(2, 3),), PLAIN, opset=18, because=because)
    assert "the older exporter: " in caplog.text
