"""A teacher that is only a file: an ONNX model run by ONNX Runtime; it has logits and no layers."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from kdeploy.artifact import file_sha256
from kdeploy.runtimes.run import open_runtime

RUNTIME = "onnxruntime_cpu"


class OnnxTeacher(nn.Module):
    """Looks like a model to whoever asks it; nothing of it can be trained, watched or compiled.

    Raises:
        ModelError: the file cannot be opened, or takes other inputs than one tensor.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._runtime = open_runtime(RUNTIME, path)
        # In the state, so that a cache or checkpoint of another file is never taken for this one's.
        digest = torch.frombuffer(bytearray.fromhex(file_sha256(path)), dtype=torch.uint8)
        self.register_buffer("sha256", digest)

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        """Return the file's first output for a batch, on the device of the batch."""
        answer = self._runtime.infer(x.detach().cpu().contiguous().numpy())
        return torch.from_numpy(answer).to(x.device)
