"""Set two of every four weights to zero, the pattern that sparse tensor cores skip.

Mishra et al., Accelerating Sparse Deep Neural Networks, 2021, arXiv:2104.08378. The groups of four
lie as they run: along the inputs of a linear layer, along the input channels of a convolution.
Whether a device is faster with it, only measuring there tells.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kdeploy.compress.contract import CompressContext, compressor, refuse_integers
from kdeploy.compress.sparsification import NEVER_RAN, calibrating, tell
from kdeploy.errors import ModelError
from kdeploy.sparsity.choice import input_norms
from kdeploy.sparsity.layers import layers_with_weights, weight_of
from kdeploy.sparsity.pattern import (
    WORTHWHILE_CHANNELS,
    best_two_of_four,
    check_two_four,
    held_groups,
    order_that_runs,
    reason_to_stay_dense,
    rows_that_run,
    weight_from_rows,
)
from kdeploy.sparsity.sparse_gpt import two_of_four_by_surgery
from kdeploy.torch_module.input_gram import input_grams
from kdeploy.torch_module.layer_patterns import matching

_LOG = logging.getLogger(__name__)


@compressor(
    paper="arXiv:2104.08378",
    before={"int8_ptq", "int8_qat", "int8_dynamic", "int4_weights"},
    sparse=True,
    makes="two_four",
    ensures=check_two_four,
)
def two_four(
    model: nn.Module,
    context: CompressContext,
    *,
    method: Literal["magnitude", "wanda", "sparse_gpt"] = "magnitude",
    multiple: Annotated[int, Field(ge=4, multiple_of=4)] = 16,
    ignore: tuple[str, ...] = (),
    batches: Annotated[int, Field(ge=1)] = 16,
    batch_size: Annotated[int, Field(ge=1)] = 32,
) -> nn.Module:
    """Return the model with at most two of each four weights left where its shapes allow.

    Args:
        model: Is left as it is.
        context: The training data that `wanda` and `sparse_gpt` look at.
        method: Which two stay: the largest (`magnitude`), the largest times the root mean square
            of their inputs (`wanda`, arXiv:2306.11695), or those that cost the outputs most, with
            the rest of the row mended (`sparse_gpt`, arXiv:2301.00774: the choice without
            `recover`).
        multiple: Layers get the pattern whose inputs and outputs are a multiple of it: 16 for the
            FP16 kernels of cuSPARSELt, 32 for the INT8 ones.
        ignore: Layers that stay dense, by name or pattern, e.g. `[head, encoder.*]`.
        batches: Training batches that `wanda` and `sparse_gpt` look at.
        batch_size: Items in each of them.

    Raises:
        OrderError: the model is quantized already.
        ModelError: no layer has a shape for it.
        NotCalibrated: there was no data to look at.
    """
    refuse_integers(model, "two_four")
    twin = copy.deepcopy(model)
    layers = layers_with_weights(twin)
    reasons = {name: reason_to_stay_dense(layer, multiple) for name, layer in layers.items()}
    dense = {name: reason for name, reason in reasons.items() if reason}
    dense |= dict.fromkeys(matching(layers, ignore, where="two_four.ignore"), "named in `ignore`")
    chosen = [name for name in layers if name not in dense]
    grams: dict[str, Tensor] = {}
    if method != "magnitude":
        seen = calibrating(context, batches=batches, batch_size=batch_size)
        grams = input_grams(twin, seen, chosen)
        dense |= {name: NEVER_RAN for name in chosen if name not in grams}
        chosen = list(grams)
    _check_any(chosen, dense, multiple)
    rows = []
    for name in chosen:
        weight = weight_of(layers[name])
        sparse = _sparse(weight, method, grams.get(name))
        assert held_groups(sparse) == 1, f"`{name}` has more than two of four"
        rows.append(_row(name, weight, sparse, grams.get(name)))
        weight.copy_(sparse)
    context.report["two_four"] = rows
    tell(context, model, twin, dense)
    if dense:
        _LOG.info("two_four: %d of %d layers stay dense", len(dense), len(layers))
    return twin


def _sparse(weight: Tensor, method: str, grams: Tensor | None) -> Tensor:
    rows = rows_that_run(weight)
    if grams is None:
        return weight_from_rows(rows * best_two_of_four(rows.abs()), weight)
    if method == "wanda":
        squares = grams.diagonal(dim1=1, dim2=2)
        scaled = weight.abs() * input_norms(squares, weight).to(weight.device)
        return weight_from_rows(rows * best_two_of_four(rows_that_run(scaled)), weight)
    order = order_that_runs(weight)
    # From `weight.flatten(1)`, where Grams are numbered, to (positions, channels), as it runs.
    in_order = grams[0][order][:, order]
    return weight_from_rows(two_of_four_by_surgery(rows, in_order), weight)


def _row(name: str, dense: Tensor, sparse: Tensor, grams: Tensor | None) -> dict[str, object]:
    """Return what the report says of a layer."""
    outputs, inputs = dense.shape[:2]
    row: dict[str, object] = {"layer": name, "inputs": inputs, "outputs": outputs}
    if grams is not None:
        row["output_error"] = round(_relative_error(dense, sparse, grams[0]), 4)
    if min(outputs, inputs) < WORTHWHILE_CHANNELS:
        row["note"] = f"fewer than {WORTHWHILE_CHANNELS} channels: sparse kernels may gain nothing"
    return row


def _relative_error(dense: Tensor, sparse: Tensor, grams: Tensor) -> float:
    """Return the mean square of the outputs' change over that of the outputs."""
    grams = grams.to(dense.device)
    change, whole = (sparse - dense).flatten(1), dense.flatten(1)
    spent, had = (torch.einsum("oi,ij,oj->", w, grams, w) for w in (change, whole))
    return float(spent / had) if had > 0 else 0.0


def _check_any(chosen: list[str], dense: Mapping[str, str], multiple: int) -> None:
    if chosen:
        return
    listed = "; ".join(f"`{name}`: {reason}" for name, reason in list(dense.items())[:3])
    raise ModelError(
        f"two_four: no layer can have the pattern ({listed or 'there is no layer with weights'})",
        hint=f"keep channels in multiples: `prune_channels` with `round_to: {multiple}`; or "
        "`multiple: 4`, if the kernels that will run take it",
    )
