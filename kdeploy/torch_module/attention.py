"""Whether a model attends: seen in what it computes, whatever its classes are called.

Attention is PyTorch's fused function, its own layer, or a product of matrices one of which came
out of a softmax: weights, and what they are a mean of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kdeploy.torch_module.model_outputs import in_eval
from kdeploy.torch_module.named_inputs import call

FUSED = frozenset(("scaled_dot_product_attention", "multi_head_attention_forward"))
SOFTMAX = frozenset(("softmax", "_softmax"))
PRODUCTS = frozenset(("matmul", "__matmul__", "bmm", "baddbmm", "einsum"))
# Between a softmax and its product: what leaves weights weights.
CARRIED = """
dropout to type_as type float half masked_fill where nan_to_num view reshape transpose permute
contiguous flatten unflatten squeeze unsqueeze expand __getitem__ mul __mul__
"""


def attends(model: nn.Module, example: Any) -> bool:
    """Return whether the model computes attention; it is run once in eval mode, left as it was.

    Args:
        model: Any; one of torch's own layers of attention is known without running.
        example: A batch of at least one item, as the model takes it.
    """
    if any(isinstance(m, nn.MultiheadAttention) for m in model.modules()):
        return True
    watch = _Watch()
    with in_eval(model), torch.no_grad(), watch:
        call(model, example)
    return watch.has_attention


class _Watch(TorchFunctionMode):
    """Keeps the weights of each softmax, so that their identities stay."""

    def __init__(self) -> None:
        super().__init__()
        self.carried = frozenset(CARRIED.split())
        self.has_attention = False
        self._weights: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = str(getattr(func, "__name__", func))
        reads_weights = any(id(tensor) in self._weights for tensor in _tensors(args))
        self.has_attention |= name in FUSED or (name in PRODUCTS and reads_weights)
        if name in SOFTMAX or (name in self.carried and reads_weights):
            self._weights.update((id(tensor), tensor) for tensor in _tensors((result,)))
        return result


def _tensors(values: Any) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found
