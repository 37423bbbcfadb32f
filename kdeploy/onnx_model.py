"""A model that is only a file: run by ONNX Runtime, it has an answer and nothing to train."""

from __future__ import annotations

import hashlib
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdeploy.errors import FileMissing, ModelError


class OnnxModel(nn.Module):
    """Looks like a model to whoever asks it; nothing in it can be watched or compiled.

    Raises:
        FileMissing: there is no such file.
        ModelError: ONNX Runtime cannot open it, or it takes more than one tensor.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._session = _opened(path)
        (self._input,) = self._session.get_inputs()
        self._is_integer = self._input.type == "tensor(int64)"
        # In the state, so that what is kept for one file is never taken for another's.
        digest = bytearray(hashlib.sha256(path.read_bytes()).digest())
        self.register_buffer("sha256", torch.frombuffer(digest, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        """Return the file's first output for a batch, on the batch's device."""
        answer: Tensor = self._answer(x)
        return answer

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _answer(self, x: Tensor) -> Tensor:
        values = x.detach().cpu().contiguous()
        values = values.long() if self._is_integer else values.float()
        first = self._session.run(None, {self._input.name: values.numpy()})[0]
        return torch.from_numpy(first).to(x.device)


def count_numbers(path: Path) -> int:
    """Return how many floating-point numbers the file holds as weights."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    return sum(prod(t.dims) for t in graph.initializer if t.data_type in floats)


def _opened(path: Path) -> Any:
    import onnxruntime

    if not path.is_file():
        raise FileMissing(
            f"there is no ONNX file {path}",
            hint="relative paths start at the recipe's folder, or where the command is called",
        )
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base
        reason = str(error).partition("\n")[0]
        raise ModelError(f"ONNX Runtime cannot open {path}: {reason}", hint="check it") from error
    inputs = session.get_inputs()
    if len(inputs) != 1:
        found = ", ".join(i.name for i in inputs)
        raise ModelError(
            f"{path} takes {len(inputs)} inputs ({found}); one tensor is supported",
            hint="export the model with a single input",
        )
    return session
