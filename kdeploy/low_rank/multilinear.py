"""The Tucker-2 decomposition of a three-way tensor: a core and two orthonormal factors.

Kolda and Bader, Tensor Decompositions and Applications, SIAM Review 51, 2009: truncated HOSVD as
the start, then higher-order orthogonal iteration (HOOI), which never makes the error larger.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

STALLED = 1e-9  # of the tensor's energy: less gain than this in an iteration ends it


class Tucker2(NamedTuple):
    """tensor[o, i, k] is about the sum over p, q of outputs[o, p] inputs[i, q] core[p, q, k]."""

    core: Tensor
    outputs: Tensor
    inputs: Tensor


def mode_spectra(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Return the squared singular values of the unfoldings by inputs and by outputs, falling."""
    # Of the Gram matrix (size x size): the unfolding itself may be far wider.
    values = [torch.linalg.eigvalsh(_gram(tensor, mode)).flip(0).clamp(min=0) for mode in (1, 0)]
    return values[0], values[1]


def tucker2(tensor: Tensor, rank_in: int, rank_out: int, *, iterations: int) -> Tucker2:
    """Return the decomposition of a tensor (outputs, inputs, positions).

    Args:
        tensor: In float64.
        rank_in: Of the factor of the inputs.
        rank_out: Of that of the outputs.
        iterations: At most as many of HOOI; 0: HOSVD as it is.
    """
    inputs, outputs = _leading(tensor, 1, rank_in), _leading(tensor, 0, rank_out)
    energy = -1.0
    for _ in range(iterations):
        outputs = _leading(torch.einsum("oik,iq->oqk", tensor, inputs), 0, rank_out)
        narrow = torch.einsum("oik,op->pik", tensor, outputs)
        inputs = _leading(narrow, 1, rank_in)
        # The factors are orthonormal: the core's energy is that of the approximation.
        found = float(torch.einsum("pik,iq->pqk", narrow, inputs).square().sum())
        if found - energy <= STALLED * float(tensor.square().sum()):
            break
        energy = found
    core = torch.einsum("oik,op,iq->pqk", tensor, outputs, inputs)
    return Tucker2(core, outputs, inputs)


def _leading(tensor: Tensor, mode: int, rank: int) -> Tensor:
    """Return the leading left singular vectors of an unfolding, (size of the mode, rank)."""
    vectors: Tensor = torch.linalg.eigh(_gram(tensor, mode))[1]
    return vectors.flip(1)[:, :rank]  # eigh tells the smallest first


def _gram(tensor: Tensor, mode: int) -> Tensor:
    unfolding = tensor.transpose(0, mode).flatten(1)
    return unfolding @ unfolding.T
