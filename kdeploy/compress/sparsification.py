"""What techniques that set zeros share: what they look at, and what they tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from kdeploy.compress.contract import CompressContext
from kdeploy.errors import NotCalibrated
from kdeploy.sparsity.layers import layers_with_weights, weight_of
from kdeploy.sparsity.zeros import compressed_bytes, zeros_of

NEVER_RAN = "never called by itself, so no input of it is known"


def calibrating(context: CompressContext, *, batches: int, batch_size: int) -> Iterator[Tensor]:
    """Return inputs of the training data to look at.

    Raises:
        NotCalibrated: there was no data.
    """
    if not len(context.data.train):
        raise NotCalibrated(
            f"`{context.data.name}` has no training items to look at",
            hint="choose by magnitude, which needs none, or lower `data.validation_fraction`",
        )
    return (x for x, _ in context.batches(context.data.train, batch_size, batches))


def tell(
    context: CompressContext, before: nn.Module, after: nn.Module, dense: Mapping[str, str]
) -> None:
    """Report each layer's sparsity, the size that it brings, and what was kept dense and why."""
    rows: list[dict[str, Any]] = []
    for name, layer in layers_with_weights(after).items():
        weight = weight_of(layer)
        share = zeros_of(weight)
        rows.append({"layer": name, "weights": weight.numel(), "sparsity": round(share, 4)})
    context.report["sparsity"] = rows
    context.report["kept_dense"] = [
        {"layer": name, "reason": reason} for name, reason in dense.items()
    ]
    context.report["compressed_bytes"] = {
        "before": compressed_bytes(before),
        "after": compressed_bytes(after),
        "by": "zlib at level 6, all tensors",
    }
