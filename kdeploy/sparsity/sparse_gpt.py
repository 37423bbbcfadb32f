"""Remove weights and let those that stay make up for them, layer by layer.

Frantar and Alistarh, SparseGPT, ICML 2023, arXiv:2301.00774: the solution of Optimal Brain Surgeon
for the least change of a layer's outputs, column after column, with one inverse for all rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdeploy.sparsity.pattern import best_two_of_four

DAMPING = 0.01  # of the mean of H's diagonal, section 4 of the paper
BLOCK = 128  # columns whose effect on the rest is added up before it is applied


def two_of_four_by_surgery(weight: Tensor, gram: Tensor) -> Tensor:
    """Return (outputs, inputs) with two of each four columns zero in a row, the rest mended.

    Weights that are zero stay zero.

    Args:
        weight: (outputs, inputs) in the order that runs.
        gram: H, (inputs, inputs), in the same order.
    """
    gram = gram.double().to(weight.device)
    used = gram.diagonal() > 0
    # The weights of an input that is always zero are free to go.
    is_alive = (weight != 0) & used
    left = weight.double() * is_alive
    inverse = _inverse_factor(gram + torch.diag((~used).double()))
    done = torch.zeros_like(left)
    for start in range(0, left.shape[1], BLOCK):
        end = min(start + BLOCK, left.shape[1])
        errors = torch.zeros_like(left[:, start:end])
        for column in range(start, end):
            if column % 4 == 0:
                four = slice(column, column + 4)
                # Equation 3: the least rise of the error.
                costs = (left[:, four] / inverse.diagonal()[four]).square() * is_alive[:, four]
                kept = best_two_of_four(costs) & is_alive[:, four]
            done[:, column] = left[:, column] * kept[:, column % 4]
            # What the columns to the right have to make up for: the update of algorithm 1.
            error = (left[:, column] - done[:, column]) / inverse[column, column]
            left[:, column:end] -= error[:, None] * inverse[column, column:end]
            errors[:, column - start] = error
        # The columns of later blocks at once: one product in place of 128.
        left[:, end:] -= errors @ inverse[start:end, end:]
    return done.to(weight.dtype)


def _inverse_factor(gram: Tensor) -> Tensor:
    """Return U, upper, with U^T U the inverse of the damped H: row i serves the columns from i."""
    damping = DAMPING * gram.diagonal().mean()
    damped = gram + damping * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor
