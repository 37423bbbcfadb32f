"""The exponential moving average of a model's weights.

Polyak and Juditsky 1992; the decay rises with the steps as in TensorFlow's
ExponentialMovingAverage, so that a short training does not remember its first weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kdeploy.training.states import divided, part_of, put_into


class WeightAverage:
    """`average = d * average + (1 - d) * weights` with `d = min(decay, (1 + step) / (10 + step))`.

    Buffers that are not floating point (counters) are copied.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.step = 0
        # The parameters themselves, not detached views: an optimizer may replace a view's memory.
        live = model.state_dict(keep_vars=True)
        self._live = {k: v for k, v in live.items() if isinstance(v, Tensor)}
        self.tensors = {k: v.detach().clone() for k, v in self._live.items()}
        self._model = model

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model's weights after a step."""
        self.step += 1
        keep = min(self.decay, (1 + self.step) / (10 + self.step))
        floating = [k for k, v in self.tensors.items() if v.is_floating_point()]
        torch._foreach_lerp_(
            [part_of(self.tensors[k]) for k in floating],
            [part_of(self._live[k].detach()) for k in floating],
            1 - keep,  # lerp's weight is that of the new value
        )
        for k in self.tensors.keys() - set(floating):
            self.tensors[k].copy_(self._live[k])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model have the average inside the `with`, its own weights again after it."""
        own = {k: v.detach().clone() for k, v in self._live.items()}
        put_into(self._model, self.tensors, strict=False)
        try:
            yield
        finally:
            put_into(self._model, own, strict=False)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "tensors": self.tensors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step = state["step"]
        for k, v in self.tensors.items():
            v.copy_(divided(state["tensors"][k], v))
