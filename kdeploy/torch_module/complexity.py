"""How large a model is: its parameters, its bytes, its multiply-accumulates."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kdeploy.torch_module.block_quantized import num_weights
from kdeploy.torch_module.model_outputs import in_eval
from kdeploy.torch_module.named_inputs import call


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, also of those that are codes; shared ones count once."""
    return sum(parameter.numel() for parameter in model.parameters()) + num_weights(model)


def count_bytes(model: nn.Module) -> int:
    """Return the size of all tensors of a model's state; one that has several names counts once."""
    tensors = {id(t): t for t in model.state_dict(keep_vars=True).values() if isinstance(t, Tensor)}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def count_macs(model: nn.Module, example: Tensor) -> int:
    """Return the multiply-accumulates of convolutions and matrix products for one item.

    Those of attention and of recurrent layers count, embeddings do not: they are looked up.

    Args:
        model: Is run once, in eval mode; left as it was.
        example: A batch of at least one item; the result is divided by its length.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_FLOPS)
    with in_eval(model), torch.no_grad(), counter:
        call(model, example.to(next(model.parameters(), example).device))
    return int(counter.get_total_flops()) // (2 * len(example))


def _attention_flops(
    query: torch.Size, key: torch.Size, value: torch.Size, *rest: Any, **more: Any
) -> int:
    # Queries with keys over the keys' width, then the weights with values: 2 FLOPs a product.
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _recurrent_flops(
    x: torch.Size, weight: torch.Size, recurrent_weight: torch.Size, *rest: Any, **more: Any
) -> int:
    return 2 * prod(x[:-1]) * (prod(weight) + prod(recurrent_weight))


def _block_linear_flops(x: torch.Size, codes: torch.Size, *rest: Any, **more: Any) -> int:
    return 2 * prod(x) * codes[0]


# What torch's counter does not know: the processor's own kernels, and ours.
_FLOPS = {
    torch.ops.kdeploy.block_linear: _block_linear_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten.mkldnn_rnn_layer: _recurrent_flops,
}
