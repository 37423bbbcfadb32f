"""Models that return several tensors: named in files by the way to each, proven one by one."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from kdeploy.compress.compressors.int8_ptq import int8_ptq
from kdeploy.compress.contract import CompressContext
from kdeploy.errors import ParityFailed
from kdeploy.export.parity import check_parity, measure_parity
from kdeploy.export.run import export
from kdeploy.torch_module.named_outputs import named_outputs


@dataclass
class Found:
    boxes: list
    scores: torch.Tensor


class Head(nn.Module):
    """Boxes at two strides and scores, in a container of some kind."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.boxes, self.scores = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        near, far = self.boxes(x), self.boxes(nn.functional.max_pool2d(x, 2))
        return self.put([near, far], self.scores(x))

    def put(self, boxes, scores):
        if self.kind == "dict":
            return {"boxes": boxes, "scores": scores, "strides": 2}
        return (boxes, scores) if self.kind == "tuple" else Found(boxes, scores)


NAMES = {
    "dict": ["boxes.0", "boxes.1", "scores"],
    "tuple": ["output.0.0", "output.0.1", "output.1"],
    "dataclass": ["boxes.0", "boxes.1", "scores"],
}


@pytest.fixture
def head():
    torch.manual_seed(0)
    return lambda kind: Head(kind).eval()


def answers(path, x):
    session = onnxruntime.InferenceSession(path)
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(None, {"input": x.numpy()}), strict=True))


@pytest.mark.parametrize("kind", NAMES)
def test_outputs_have_the_names_of_the_way_to_them(head, data, tmp_path, kind):
    model, items = head(kind), data((3, 8, 8))
    export(model, "onnx", {}, items, tmp_path / "m.onnx")
    x = torch.randn(5, 3, 8, 8)
    found, expected = answers(tmp_path / "m.onnx", x), named_outputs(model(x))
    assert list(found) == list(expected) == NAMES[kind]
    for name, tensor in expected.items():
        torch.testing.assert_close(torch.from_numpy(found[name]), tensor, atol=1e-5, rtol=1e-4)
    file = onnx.load(tmp_path / "m.onnx")
    assert {o.type.tensor_type.shape.dim[0].dim_param for o in file.graph.output} == {"batch"}
    assert "BatchNormalization" not in {node.op_type for node in file.graph.node}


@pytest.mark.parametrize("profile", ["cpu", "tensorrt"])
def test_int8_of_several_outputs_is_proven_output_by_output(head, data, tmp_path, profile):
    items = data((3, 8, 8))
    small = int8_ptq(head("dict"), CompressContext(data=items), profile=profile)
    assert list(small(torch.randn(2, 3, 8, 8))) == ["boxes", "scores", "strides"]
    result = export(small, "onnx", {"profile": profile}, items, tmp_path / "m.onnx")
    assert result.max_abs <= result.bound
    assert list(answers(tmp_path / "m.onnx", torch.randn(1, 3, 8, 8))) == NAMES["dict"]


def test_torch_exports_them_too(head, data, tmp_path):
    result = export(head("tuple"), "torch_export", {}, data((3, 8, 8)), tmp_path / "m.pt2")
    assert result.max_abs <= result.bound


def test_a_wrong_output_is_named_even_where_the_first_is_right(head, data):
    model = head("dict")

    def run(batch):
        answer = named_outputs(model(torch.tensor(batch)))
        arrays = {name: tensor.detach().numpy() for name, tensor in reversed(answer.items())}
        return {**arrays, "scores": arrays["scores"] * 1.2}

    parity = measure_parity(model, run, data((3, 8, 8)))
    assert parity.worst == "scores"
    with pytest.raises(ParityFailed, match="at `scores`"):
        check_parity(parity, name="m.onnx")
