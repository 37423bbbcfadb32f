"""Half a language model: layers, feed-forward channels and heads that a decoder would miss least.

Layers by block influence, Men et al., ShortGPT, arXiv:2403.03853; width by activations, as in
Muralidharan et al., Minitron, NeurIPS 2024, arXiv:2407.14679. What is left needs `recover`: taught
by the model before, it finds back a part of what it lost.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from kdeploy.compress.contract import CompressContext, compressor, refuse_integers
from kdeploy.errors import NotCalibrated
from kdeploy.pruning.decoders import (
    DecoderScores,
    KeptParts,
    decoder_in,
    narrowed,
    query_heads,
    scored,
)


def runs_as_configured(model: nn.Module) -> None:
    """Raise AssertionError unless the decoder has what its configuration says."""
    library = decoder_in(model)
    config, layers = library.config, library.model.layers
    assert len(layers) == config.num_hidden_layers, f"{len(layers)} layers"
    for index, layer in enumerate(layers):
        assert layer.mlp.down_proj.in_features == config.intermediate_size, f"layer {index}"
        assert layer.self_attn.layer_idx == index, f"layer {index} has another place in the cache"


@compressor(
    paper="arXiv:2407.14679",
    before={"low_rank", "unstructured", "two_four", "int8_ptq", "int8_dynamic", "int4_weights"},
    ensures=runs_as_configured,
    takes="decoder",
)
def prune_decoder(
    model: nn.Module,
    context: CompressContext,
    *,
    layers: Annotated[float, Field(gt=0, le=1)] = 0.5,
    feed_forward: Annotated[float, Field(gt=0, le=1)] = 1.0,
    heads: Annotated[float, Field(gt=0, le=1)] = 1.0,
    multiple: Annotated[int, Field(ge=1)] = 32,
    batches: Annotated[int, Field(ge=1)] = 8,
    batch_size: Annotated[int, Field(ge=1)] = 1,
) -> nn.Module:
    """Return a smaller decoder with the parts that count most, and a configuration of its own.

    Args:
        model: A decoder of transformers with layers as Llama has them; is left as it is.
        context: The training text that parts are judged on.
        layers: The share of the layers that stays. Those go that turn their input least.
        feed_forward: The share of the feed-forward channels that stays in each layer.
        heads: The share of the key heads that stays in each layer, with the query heads that read
            them.
        multiple: The feed-forward width is a multiple of it, as kernels for 4-bit weights want.
        batches: Training batches that parts are judged on.
        batch_size: Items in each of them.

    Raises:
        OrderError: the model is quantized already.
        ModelError: it is no such decoder.
        NotCalibrated: there was no text to judge parts on.
    """
    refuse_integers(model, "prune_decoder")
    config = decoder_in(model).config
    if not len(context.data.train):
        raise NotCalibrated(
            f"`{context.data.name}` has no training items to judge layers on",
            hint="lower `data.validation_fraction`",
        )
    was_training = model.training
    scores = scored(model.eval(), context.calibration(batch_size, batches))
    model.train(was_training)
    width = max(round(feed_forward * config.intermediate_size / multiple), 1) * multiple
    if feed_forward == 1:
        width = config.intermediate_size
    groups = max(round(heads * config.num_key_value_heads), 1)
    kept = _chosen(scores, round(layers * len(scores.influence)), width, groups)
    context.report["layers"] = [
        {"layer": index, "influence": round(float(value), 5), "kept": index in kept.layers}
        for index, value in enumerate(scores.influence)
    ]
    context.report["widths"] = [
        {"part": part, "before": before, "after": after}
        for part, before, after in (
            ("feed-forward channels", config.intermediate_size, width),
            ("key heads", config.num_key_value_heads, groups),
            ("query heads", config.num_attention_heads, groups * query_heads(config)),
        )
    ]
    return narrowed(model, kept)


def _chosen(scores: DecoderScores, layers: int, width: int, groups: int) -> KeptParts:
    stay = _best(scores.influence, max(layers, 1)).tolist()
    return KeptParts(
        layers=stay,
        channels={index: _best(scores.channels[index], width) for index in stay},
        groups={index: _best(scores.groups[index], groups) for index in stay},
    )


def _best(scores: Tensor, count: int) -> Tensor:
    """Return the numbers of the highest scores, in rising order."""
    return torch.topk(scores, min(count, len(scores))).indices.sort().values
