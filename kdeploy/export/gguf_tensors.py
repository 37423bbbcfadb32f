"""A decoder's tensors as a GGUF file holds them: names, the order of heads, blocks of codes.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; blocks of ggml-common.h: 32 numbers share
a float16 scale d. Q4_0 is (code - 8) * d, Q4_1 is code * d + m, Q8_0 a signed byte times d; of
4 bits the first 16 codes are the low halves of 16 bytes, the others the high ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from kdeploy.errors import ModelError
from kdeploy.torch_module.block_quantized import BlockQuantized, block_quantized, unpacked

BLOCK = 32
HALF = BLOCK // 2
TURNED = ("q_proj", "k_proj")
"""Layers whose rows llama's own code keeps in another order: the two halves of a rotation beside
one another, where transformers has one behind the other."""
TABLE, HEAD = "model.embed_tokens", "lm_head"


def tensors_of(decoder: nn.Module, *, is_turned: bool) -> Iterator[tuple[str, Any, str]]:
    """Yield the name in transformers, the array and the format (F32, Q4_0, ...) of each tensor.

    Args:
        decoder: A causal language model of transformers, float or with layers on codes.
        is_turned: Whether rows of queries and keys are put in llama's order.

    Raises:
        ModelError: codes have no place in such a file: their blocks are no multiple of 32.
    """
    config: Any = decoder.config
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    layers = block_quantized(decoder)
    table = layers.get(TABLE)
    for name, layer in layers.items():
        is_tied = name == HEAD and table is not None and _shares(layer, table)
        if not is_tied:
            coded, form = blocks_of(name, layer)
            yield f"{name}.weight", _in_order(coded, name, heads, is_turned=is_turned), form
    is_tied = bool(config.tie_word_embeddings) and HEAD not in layers
    for name, parameter in decoder.named_parameters():
        if is_tied and name == f"{HEAD}.weight":
            continue
        array = _floats(parameter)
        yield name, _in_order(array, name.rpartition(".")[0], heads, is_turned=is_turned), "F32"


def blocks_of(name: str, layer: BlockQuantized) -> tuple[NDArray[np.uint8], str]:
    """Return codes as GGUF holds them, (rows, bytes), and the name of the format.

    Raises:
        ModelError: their blocks are no multiple of 32, or 8 bits have zero points.
    """
    codes = unpacked(layer.codes.cpu(), layer.bits).numpy()
    rows, blocks, size = codes.shape
    columns = layer.weight.shape[1]
    if size % BLOCK or columns % BLOCK:
        raise ModelError(
            f"`{name}` has {columns} columns in blocks of {size}, and GGUF has blocks of {BLOCK}",
            hint=f"`int4_weights: {{block_size: {BLOCK}}}` (or 64, 128)",
        )
    scales = layer.scales.cpu().numpy().repeat(size // BLOCK, axis=1)
    codes = codes.reshape(rows, -1, BLOCK)
    count = columns // BLOCK
    codes, scales = codes[:, :count], scales[:, :count, None]
    points = None
    if layer.zero_points is not None:
        points = unpacked(layer.zero_points.cpu(), layer.bits)[:, :blocks].numpy()
        points = points.repeat(size // BLOCK, axis=1)[:, :count, None]
    if layer.bits == 4:
        parts = [scales.astype(np.float16).view(np.uint8)]
        if points is not None:
            least = -(points * scales.astype(np.float32))
            parts.append(least.astype(np.float16).view(np.uint8))
        parts.append(codes[..., :HALF] | (codes[..., HALF:] << 4))
        form = "Q4_0" if points is None else "Q4_1"
    elif points is None:
        # Codes around 128 as signed ones: the highest bit turns.
        parts, form = [scales.astype(np.float16).view(np.uint8), codes ^ np.uint8(0x80)], "Q8_0"
    else:
        raise ModelError(
            f"`{name}` has codes of 8 bits with zero points, and GGUF has none of these",
            hint="`int4_weights: {symmetric: true}`",
        )
    return np.ascontiguousarray(np.concatenate(parts, axis=-1).reshape(rows, -1)), form


def _in_order(
    array: NDArray[Any], name: str, heads: Mapping[str, int], *, is_turned: bool
) -> NDArray[Any]:
    """Return rows (of weights, or numbers of a bias) in the order that the file has."""
    count = heads.get(name.rpartition(".")[2])
    if count is None or not is_turned:
        return array
    order = np.arange(len(array)).reshape(count, 2, -1).swapaxes(1, 2).reshape(-1)
    return np.ascontiguousarray(array[order])


def _shares(one: BlockQuantized, other: BlockQuantized) -> bool:
    return one.codes.data_ptr() == other.codes.data_ptr()


def _floats(parameter: Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = parameter.detach().float().cpu().numpy()
    return found
