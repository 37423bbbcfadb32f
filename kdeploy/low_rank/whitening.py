"""The root of the inputs' second moments: errors are weighed by what the layer is really given.

Wang et al., SVD-LLM, ICLR 2025, arXiv:2403.07378. With H = S S^T the mean squared output error
of a changed weight W + D is |D S|^2, so the best approximation of W of some rank is that of W S
in the plain norm, times the inverse of S.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Of the mean second moment, added to each: directions that calibration did not see cost, too.
DAMPING = 0.01


def root_of(gram: Tensor) -> Tensor:
    """Return the lower Cholesky factor of H, damped, (inputs, inputs) in float64.

    An H without any information (a layer whose inputs are zero or infinite) gives the identity.
    """
    gram = gram.double()
    damping = DAMPING * gram.diagonal().mean()
    eye = torch.eye(len(gram), dtype=torch.float64)
    if not (gram.isfinite().all() and damping > 0):
        return eye
    root: Tensor = torch.linalg.cholesky(gram + damping * eye)
    return root


def without(root: Tensor, matrix: Tensor) -> Tensor:
    """Return `matrix` times the inverse of the root."""
    # By substitution, which is more exact than a product with the inverse.
    solved: Tensor = torch.linalg.solve_triangular(root, matrix, upper=False, left=False)
    return solved


def of_columns(gram: Tensor, inputs: int, kernel: tuple[int, int]) -> Tensor:
    """Return the Gram matrix of patches one kernel column wide, the mean over the columns.

    Args:
        gram: Of whole patches, numbered by channel, row and column.
        inputs: Channels.
        kernel: Height and width.
    """
    height, width = kernel
    blocks = gram.reshape(inputs, height, width, inputs, height, width)
    # Products of one kernel column with another are left out: see `pair_of`.
    mean = blocks.diagonal(dim1=2, dim2=5).mean(-1)  # (inputs, height, inputs, height)
    return mean.reshape(inputs * height, inputs * height)


def of_channels(gram: Tensor, inputs: int) -> Tensor:
    """Return the Gram matrix of channels alone, the mean over the kernel's positions."""
    positions = len(gram) // inputs
    blocks = gram.reshape(inputs, positions, inputs, positions)
    return blocks.diagonal(dim1=1, dim2=3).mean(-1)
