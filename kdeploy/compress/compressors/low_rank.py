"""Write layers as products of two smaller ones, by a truncated SVD.

Linear layers and convolutions (Zhang et al., arXiv:1505.06798; Jaderberg et al.,
arXiv:1405.3866), weighed by what they are really given (Wang et al., SVD-LLM, arXiv:2403.07378).
The result is plain layers: `fc` becomes `fc.reduce` and `fc.expand`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from kdeploy.compress.contract import CompressContext, compressor
from kdeploy.compress.low_rank_settings import LowRankSettings
from kdeploy.compress.replacement import replace_layers
from kdeploy.low_rank.invariants import check_factors
from kdeploy.low_rank.pair import form_of, pair_of


@compressor(
    paper="arXiv:2403.07378",
    before={"unstructured", "two_four", "int8_ptq", "int8_qat", "int8_dynamic", "int4_weights"},
    ensures=check_factors,
)
def low_rank(
    model: nn.Module,
    context: CompressContext,
    *,
    form: Literal["spatial", "channel"] = "spatial",
    energy: Annotated[float, Field(gt=0, le=1)] | None = None,
    rank_ratio: Annotated[float, Field(gt=0, lt=1)] | None = None,
    vbmf: bool = False,
    target: Mapping[Literal["macs", "parameters"], Annotated[float, Field(gt=0, lt=1)]]
    | None = None,
    round_to: Annotated[int, Field(ge=1)] = 8,
    whiten: bool = True,
    batches: Annotated[int, Field(ge=1)] = 8,
    batch_size: Annotated[int, Field(ge=1)] = 32,
    runtime: str = "onnxruntime_cpu",
    threads: Annotated[int, Field(ge=1)] | None = None,
    latency_batch_size: Annotated[int, Field(ge=1)] = 1,
    always: bool = False,
    ignore: tuple[str, ...] = (),
) -> nn.Module:
    """Return a copy of the model in which a layer is two, where that is measured to be faster.

    Args:
        model: Is left as it is.
        context: The data, the stopwatch, and the report of what was replaced and declined.
        form: Of kxk convolutions: `spatial`, kx1 and then 1xk, loses less at equal cost as a
            rule; `channel` is few filters of the same kernel and then 1x1. Kernels of one
            dimension, or of a single position, are always `channel`.
        energy: The rank is the least one that keeps this fraction of the squared singular values
            (with `whiten`, of the squared outputs); 0.99 when no target is given. Give one of
            `energy`, `rank_ratio`, `vbmf` and `target`.
        rank_ratio: The rank, as a fraction of the full one.
        vbmf: The rank is the number of singular values that stand out of noise, by variational
            Bayes (Nakajima et al., JMLR 14, 2013), on the weights alone.
        target: What the whole model keeps, e.g. `{macs: 0.5}` or `{parameters: 0.5}`; one energy
            for all layers, found by bisection.
        round_to: Ranks are rounded up to a multiple; vector units compute channels in blocks.
        whiten: Approximate the outputs on training data instead of the weights.
        batches: Training batches that `whiten` looks at.
        batch_size: Items in each of them.
        runtime: Where each layer and its factors are measured.
        threads: Of the runtime; none: all cores.
        latency_batch_size: Items in a batch that is timed.
        always: Take every layer that costs less, without measuring.
        ignore: Layers that stay as they are, by name or pattern, e.g. `[stem.*, fc]`.

    Raises:
        OrderError: the model is quantized already.
        RecipeError: more than one target.
        ModelError: the target is out of reach.
    """
    return replace_layers(
        model,
        context,
        make=lambda layer, gram: pair_of(layer, form=form_of(layer, form), gram=gram),
        settings=LowRankSettings(
            technique="low_rank",
            energy=energy,
            rank_ratio=rank_ratio,
            vbmf=vbmf,
            target=target,
            round_to=round_to,
            whiten=whiten,
            batches=batches,
            batch_size=batch_size,
            runtime=runtime,
            threads=threads,
            latency_batch_size=latency_batch_size,
            always=always,
            ignore=ignore,
        ),
    )
