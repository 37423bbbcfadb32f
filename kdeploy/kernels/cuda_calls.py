"""A model on an NVIDIA GPU, called with arrays of the host, and the two times of a call.

From end to end a call copies the batch to the GPU, computes, waits, and copies the answer back;
on the device only the computation counts, between two CUDA events.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdeploy.errors import ModelError, Unavailable
from kdeploy.kernels.cuda_stream import CudaStream
from kdeploy.preprocessing import Inputs

DEVICE = "cuda"
# Before a capture, beside its own: libraries allocate, choose and compile on their first calls.
WARM_UP_CALLS = 2
DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class CudaCalls:
    """Calls a function of one tensor on the GPU, on request as a replayed CUDA graph."""

    def __init__(self, forward: Callable[[Tensor], Tensor], *, name: str, cuda_graph: bool) -> None:
        """Take the function.

        Args:
            forward: Computes on the GPU, without reading a value on the host.
            name: What errors call it.
            cuda_graph: Capture one graph for the batch's shape; another shape is captured anew.
        """
        self._forward, self._name, self._is_captured = forward, name, cuda_graph
        self._stream = CudaStream()
        self._input = self._output = torch.empty(0)
        self._replay: Callable[[], None] | None = None

    def __call__(self, batch: Inputs) -> NDArray[np.float32]:
        """Return the answer to a batch on the host, there again."""
        try:
            with torch.inference_mode(), self._stream.used():
                self._take(torch.from_numpy(batch))
                with self._stream.timed():
                    (self._replay or self._compute)()
                answer = self._output.float().cpu()  # waits
        except RuntimeError as error:
            raise ModelError(
                f"{self._name} cannot run an input of shape {list(batch.shape)}: {error}",
                hint="check the data's shape against the model's, and the memory of the GPU",
            ) from error
        result: NDArray[np.float32] = answer.numpy()
        return result

    def device_seconds(self) -> float:
        """Return how long the last call computed on the GPU, without the copies."""
        return self._stream.seconds()

    def _take(self, host: Tensor) -> None:
        """Copy the batch to the GPU, to where the graph reads it; another shape takes another."""
        is_known = self._input.shape == host.shape and self._input.dtype == host.dtype
        if not is_known:
            self._replay = None
            self._input = torch.empty_like(host, device=DEVICE)
        self._input.copy_(host)
        if self._is_captured and self._replay is None:
            self._replay = self._captured()

    def _compute(self) -> None:
        self._output = self._forward(self._input)

    def _captured(self) -> Callable[[], None]:
        for _ in range(WARM_UP_CALLS):
            self._compute()
        try:
            return self._stream.captured(self._compute)
        except RuntimeError as error:
            raise Unavailable(
                f"{self._name} cannot become a CUDA graph: {error}",
                hint="`cuda_graph=false`: something in its forward() waits for a value on the host",
            ) from error


def converting(
    model: nn.Module, dtype: torch.dtype, *, channels_last: bool
) -> Callable[[Tensor], Tensor]:
    """Return the model's call with its input as it wants it; token ids stay what they are."""

    def forward(x: Tensor) -> Tensor:
        x = x.to(dtype) if x.is_floating_point() else x
        if channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        answer: Tensor = model(x)
        return answer

    return forward


def move_to_channels_last(model: nn.Module) -> None:
    """Lay the weights of images with their channels innermost; `Module.to` fails on 3-D ones."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)


def weighted_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the convolutions and linear layers of a model by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, WEIGHTED)}


def layer_rows(model: nn.Module) -> list[dict[str, str]]:
    """Return for each convolution and linear layer with what numbers and where it computes."""
    return [
        {"name": name, "kernel": _kernel(layer), "why": ""}
        for name, layer in weighted_layers(model).items()
    ]


def set_tf32(allowed: bool) -> None:
    """Say for this process whether FP32 products may be rounded to TF32's ten bits of fraction.

    By the older of torch's two interfaces: after the newer one, `torch.export` no longer works
    (torch 2.13: "a mix of the legacy and new APIs").
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*new API")
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed


def tf32_state() -> dict[str, bool]:
    """Return what rounds its factors to TF32, as torch reads it back."""
    cudnn: Any = torch.backends.cudnn
    settings = {"matmul": torch.backends.cuda.matmul, "convolution": cudnn.conv}
    return {name: one.fp32_precision == "tf32" for name, one in settings.items()}


def device_name() -> str:
    """Return the name of torch and of the GPU, as the proof's provider."""
    return f"torch {torch.__version__}, {torch.cuda.get_device_name()}"


def weights_of(layers: Iterable[nn.Module]) -> list[NDArray[np.float32]]:
    """Return the weights of dense layers on the host, in float32."""
    found = (m.weight for m in layers if getattr(m, "groups", 1) == 1)
    return [w.detach().float().cpu().numpy() for w in found if isinstance(w, Tensor)]


def _kernel(layer: nn.Module) -> str:
    weight = layer.weight
    assert isinstance(weight, Tensor), f"{type(layer).__name__} has no weight"
    return f"{type(layer).__name__} {str(weight.dtype).removeprefix('torch.')} {weight.device}"
