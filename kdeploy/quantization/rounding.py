"""AdaRound: learn for each weight whether it is rounded up or down.

Nagel et al., Up or Down?, ICML 2020, arXiv:2004.10568. What counts is the error of the layer's
output and not of its weights: with D = W_q - W and the second moments H of its inputs that is
trace(D H D^T), so that errors of weights on inputs that go together can cancel. No labels, no
gradients through the network: few calibration items do.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kdeploy.quantization.number_format import NumberFormat, on_grid

ITERATIONS = 1000
LEARNING_RATE = 1e-2
# The rectified sigmoid reaches beyond 0 and 1, so that a weight can settle there (equation 23).
REACH_LOW, REACH_HIGH = -0.1, 1.1
# Weight of the term that drives each share to 0 or 1, its exponent at the start and at the end,
# and the part of the iterations without it (the paper's values).
SETTLING = 0.01
SHARPNESS = (20.0, 2.0)
WARM_UP = 0.2


def round_by_output(
    weight: Tensor, grams: Tensor, number_format: NumberFormat, *, iterations: int = ITERATIONS
) -> Tensor:
    """Return the weight on the grid of its codes, of less output error than the nearest codes.

    Rounding the result again gives the same codes: the largest weight of each channel, which
    decides the scale, stays as it is. So do zeros, which sparsity may have made.

    Args:
        weight: (outputs, ...), float.
        grams: (groups, inputs, inputs), the mean of x x^T over the rows of inputs.
        number_format: A symmetric format.
        iterations: Steps of Adam.
    """
    given = weight.detach().cpu().numpy()
    codes, scales = on_grid(given, number_format)
    real = given / scales
    largest = np.abs(given).reshape(len(given), -1).max(1).reshape(scales.shape)
    is_free = torch.from_numpy((np.abs(given) < largest) & (given != 0)).flatten(1)
    nearest, real_codes = (torch.from_numpy(a).flatten(1) for a in (codes, real))
    learned = _learn(real_codes, is_free, _normalised(grams), iterations)
    learned = torch.where(is_free, learned, nearest)
    better = _errors(learned - real_codes, grams) < _errors(nearest - real_codes, grams)
    chosen = torch.where(better[:, None], learned, nearest).numpy().reshape(given.shape)
    # The product of code and scale may exceed the largest weight by a rounding error.
    on_it = np.clip(chosen * scales, -largest, largest)
    return torch.from_numpy(np.where(is_free.numpy().reshape(given.shape), on_it, given)).to(weight)


def _learn(real: Tensor, is_free: Tensor, grams: Tensor, iterations: int) -> Tensor:
    """Return the codes that Adam finds; each is the real code rounded down or up."""
    floor = real.floor()
    # Starts at the real number itself: the inverse of the rectified sigmoid.
    share = ((real - floor) - REACH_LOW) / (REACH_HIGH - REACH_LOW)
    variable = torch.logit(share).requires_grad_()
    optimizer = torch.optim.Adam([variable], lr=LEARNING_RATE)
    for step in range(iterations):
        up = _rectified(variable)
        error = torch.where(is_free, floor + up - real, 0.0)
        # The gradient of trace(D H D^T) is 2 D H: one product instead of two.
        product = _times(error.detach(), grams)
        loss = 2 * (error * product).sum()
        progress = (step / iterations - WARM_UP) / (1 - WARM_UP)
        if progress > 0:
            start, end = SHARPNESS
            # Equation 24: high at first, so that all but shares near 0 and 1 are free to move.
            exponent = end + (start - end) * 0.5 * (1 + np.cos(np.pi * progress))
            loss = loss + SETTLING * (1 - (2 * up - 1).abs() ** exponent)[is_free].sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return floor + (_rectified(variable.detach()) >= 0.5)


def _rectified(variable: Tensor) -> Tensor:
    return (variable.sigmoid() * (REACH_HIGH - REACH_LOW) + REACH_LOW).clamp(0, 1)


def _normalised(grams: Tensor) -> Tensor:
    """Return the moments of inputs whose mean square is 1: the settling term has no unit."""
    power = grams.diagonal(dim1=1, dim2=2).mean().clamp(min=1e-12)
    return grams / power


def _times(rows: Tensor, grams: Tensor) -> Tensor:
    """Return D H, (outputs, inputs), of the groups that the rows fall into."""
    split = rows.reshape(len(grams), -1, rows.shape[1])
    product: Tensor = split @ grams
    return product.flatten(0, 1)


def _errors(rows: Tensor, grams: Tensor) -> Tensor:
    """Return d H d^T of each row (outputs,)."""
    return (_times(rows, grams) * rows).sum(1)
