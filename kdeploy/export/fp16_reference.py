"""What float16 alone does to a model: the yardstick for files in half precision."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from kdeploy.onnx_graph.model import OnnxModel

LARGEST = float(np.finfo(np.float16).max)


class HalfRounded(nn.Module):
    """Computes in float32 with weights and inputs that float16 can hold."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = _rounded_file(model) if isinstance(model, OnnxModel) else _rounded(model)

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """Return the model's answer to the rounded batch; token ids stay as they are."""
        rounded = {name: _held(x) for name, x in named.items()}
        output: Tensor = self.model(*map(_held, inputs), **rounded)
        return output


def _held(x: Tensor) -> Tensor:
    return _round(x) if x.is_floating_point() else x


def _rounded(model: nn.Module) -> nn.Module:
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in (*twin.parameters(), *twin.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(_round(tensor))
    return twin


def _round(x: Tensor) -> Tensor:
    # Clamped: a number beyond is for `half_arithmetic` to find; here it would hide all others.
    return x.clamp(-LARGEST, LARGEST).half().to(x.dtype)


def _rounded_file(model: OnnxModel) -> OnnxModel:
    def write(path: Path) -> None:
        file = onnx.load(model.path)
        for tensor in file.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT:
                values = numpy_helper.to_array(tensor).clip(-LARGEST, LARGEST)
                rounded = values.astype(np.float16).astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
        onnx.save(file, path)

    return OnnxModel.written_by(write)
