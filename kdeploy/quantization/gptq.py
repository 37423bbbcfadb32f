"""GPTQ: round a weight column by column, and let the columns that are left absorb the error.

Frantar et al., ICLR 2023, arXiv:2210.17323. Columns come in the order of the largest mean square of
their inputs; the blocks and their scales are fixed before (static groups), so that the codes return
to their places and no runtime has to reorder anything.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdeploy.errors import ModelError
from kdeploy.quantization.block_rounding import BlockFormat, BlockGrid, grid_of, nearest

DAMP = 0.01  # of the mean of the diagonal; tenfold after each failure
MOST_DAMP = 10.0
COLUMNS = 128  # that are rounded before the error goes on to the rest


def gptq(
    weight: Tensor, gram: Tensor, form: BlockFormat, *, search: bool = True, ordered: bool = True
) -> tuple[BlockGrid, Tensor]:
    """Return the grid of a weight, and codes (rows, columns) that keep its outputs near.

    Args:
        weight: (rows, columns), float32.
        gram: (columns, columns), the mean of x x^T over the layer's inputs.
        form: Bits and blocks.
        search: Search the scales for the least error weighted by the diagonal of the gram.
        ordered: Round the columns of the largest inputs first.

    Raises:
        ModelError: the gram is no gram: not even with damping it has an inverse.
    """
    gram = gram.float().clone()
    importance = gram.diagonal().clone()
    grid = grid_of(weight, form, importance if search else None)
    gram.diagonal()[importance <= 0] = 1.0  # an input that is always zero decides nothing
    columns = weight.shape[1]
    order = torch.arange(columns)
    if ordered:
        order = torch.argsort(importance, descending=True, stable=True)
    factor = _inverse_factor(gram[order][:, order])
    scales, points = grid.columns(order)
    left, codes = weight[:, order].float().clone(), torch.zeros_like(weight, dtype=torch.float32)
    for start in range(0, columns, COLUMNS):
        end = min(start + COLUMNS, columns)
        errors = torch.zeros(len(weight), end - start)
        for column in range(start, end):
            scale, point = scales[:, column], points[:, column]
            code = nearest(left[:, column], scale, point, form)
            codes[:, column] = code
            error = (left[:, column] - (code - point) * scale) / factor[column, column]
            left[:, column:end] -= error[:, None] * factor[column, column:end]
            errors[:, column - start] = error
        left[:, end:] -= errors @ factor[start:end, end:]
    back = torch.empty_like(codes)
    back[:, order] = codes
    return grid, back


def output_error(weight: Tensor, rounded: Tensor, gram: Tensor) -> float:
    """Return the error of a layer's outputs by rounding, as a share of the outputs' power."""
    difference = weight - rounded
    error = float(((difference @ gram) * difference).sum().double())
    power = float(((weight @ gram) * weight).sum().double())
    return error / power if power > 0 else 0.0


def _inverse_factor(gram: Tensor) -> Tensor:
    """Return the upper Cholesky factor of the inverse of a damped gram."""
    damp, mean = DAMP, float(gram.diagonal().mean())
    identity = torch.eye(len(gram))
    while damp <= MOST_DAMP:
        lower, fault = torch.linalg.cholesky_ex(gram + damp * mean * identity)
        if not int(fault) and bool(torch.isfinite(lower).all()):
            inverse = torch.cholesky_inverse(lower)
            upper, fault = torch.linalg.cholesky_ex(inverse, upper=True)
            if not int(fault) and bool(torch.isfinite(upper).all()):
                factor: Tensor = upper
                return factor
        damp *= 10
    raise ModelError(
        f"the inputs of a layer ({len(gram)} of them) have no second moments that can be inverted",
        hint="calibrate on more items (`calibration_batches`), or round to nearest: `method: rtn`",
    )
