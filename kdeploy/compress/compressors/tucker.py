"""Write convolutions as 1x1, a narrow convolution and 1x1, by Tucker-2.

Kim et al., ICLR 2016, arXiv:1511.06530: HOSVD, refined by higher-order orthogonal iteration. The
result is plain layers: `conv` becomes `conv.reduce`, `conv.core` and `conv.expand`; where a rank
is full, its 1x1 layer is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import nn

from kdeploy.compress.contract import CompressContext, compressor
from kdeploy.compress.low_rank_settings import LowRankSettings
from kdeploy.compress.replacement import replace_layers
from kdeploy.low_rank.core import core_of
from kdeploy.low_rank.invariants import check_factors


@compressor(
    paper="arXiv:1511.06530",
    before={"unstructured", "two_four", "int8_ptq", "int8_qat", "int8_dynamic", "int4_weights"},
    ensures=check_factors,
)
def tucker(
    model: nn.Module,
    context: CompressContext,
    *,
    energy: Annotated[float, Field(gt=0, le=1)] | None = None,
    rank_ratio: Annotated[float, Field(gt=0, lt=1)] | None = None,
    vbmf: bool = False,
    target: Mapping[Literal["macs", "parameters"], Annotated[float, Field(gt=0, lt=1)]]
    | None = None,
    round_to: Annotated[int, Field(ge=1)] = 8,
    iterations: Annotated[int, Field(ge=0)] = 10,
    whiten: bool = False,
    batches: Annotated[int, Field(ge=1)] = 8,
    batch_size: Annotated[int, Field(ge=1)] = 32,
    runtime: str = "onnxruntime_cpu",
    threads: Annotated[int, Field(ge=1)] | None = None,
    latency_batch_size: Annotated[int, Field(ge=1)] = 1,
    always: bool = False,
    ignore: tuple[str, ...] = (),
) -> nn.Module:
    """Return a copy of the model in which a convolution is three, where that is faster.

    Args:
        model: Is left as it is.
        context: The data, the stopwatch, and the report of what was replaced and declined.
        energy: The ranks are the least ones that surely keep this fraction of the squared weights
            (with `whiten`, weighed by the inputs); 0.99 when no target is given. Give one of
            `energy`, `rank_ratio`, `vbmf` and `target`.
        rank_ratio: The ranks, as a fraction of the full ones.
        vbmf: The ranks are the numbers of singular values that stand out of noise, by variational
            Bayes (Nakajima et al., JMLR 14, 2013), on the weights alone.
        target: What the whole model keeps, e.g. `{macs: 0.5}` or `{parameters: 0.5}`; one energy
            for all layers, found by bisection.
        round_to: Ranks are rounded up to a multiple; vector units compute channels in blocks.
        iterations: Of the refinement, at most; 0: HOSVD alone.
        whiten: Weigh input channels by their second moments on training data. That brings the
            outputs of a layer nearer at equal ranks; it knows nothing of how positions of the
            kernel go together, and where it was tried a budget was not spent better by it.
        batches: Training batches that `whiten` looks at.
        batch_size: Items in each of them.
        runtime: Where each layer and its factors are measured.
        threads: Of the runtime; none: all cores.
        latency_batch_size: Items in a batch that is timed.
        always: Take every layer that costs less, without measuring.
        ignore: Layers that stay as they are, by name or pattern, e.g. `[stem.*]`.

    Raises:
        OrderError: the model is quantized already.
        RecipeError: more than one target.
        ModelError: the target is out of reach.
    """
    return replace_layers(
        model,
        context,
        make=lambda layer, gram: core_of(layer, iterations=iterations, gram=gram),
        why_not=_why_not,
        settings=LowRankSettings(
            technique="tucker",
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


def _why_not(layer: Any) -> str | None:
    if isinstance(layer, nn.Linear):
        return "a linear layer has no kernel; `low_rank` takes it"
    if layer.weight[0, 0].numel() == 1:
        return "a 1x1 kernel is a matrix; `low_rank` takes it"
    return None
