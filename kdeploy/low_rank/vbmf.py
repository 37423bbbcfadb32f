"""The rank of a matrix under noise: variational Bayesian matrix factorisation, in closed form.

Nakajima et al., Global Analytic Solution of Fully-observed Variational Bayesian Matrix
Factorization, JMLR 14, 2013. With flat (empirical) priors the solution keeps the singular values
above a threshold that follows from the noise variance, and that variance minimises the free
energy, a function of one number.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
GRID = 512  # points of a search; the second one between the neighbours of the first one's best


def vbmf_rank(singular_values: Floats, shape: tuple[int, int]) -> int:
    """Return how many singular values of a matrix stand out of white noise.

    Args:
        singular_values: All of them, min(shape) many.
        shape: Of the matrix.
    """
    few, many = min(shape), max(shape)
    assert len(singular_values) == few, f"{len(singular_values)} singular values of {shape}"
    squares = np.sort(np.asarray(singular_values, dtype=np.float64))[::-1] ** 2
    # Without noise its variance is 0, and so are singular values below rounding.
    squares = squares[squares > squares[:1] * many * np.finfo(np.float32).eps ** 2]
    if len(squares) < few:
        return len(squares)
    ratio = few / many
    edge = _edge(ratio)
    variance = _noise_variance(squares, many, ratio, edge)
    return int((squares > many * variance * edge).sum())


def _edge(ratio: float) -> float:
    """Return the least squared singular value that is kept, in units of `many x variance`."""

    def balance(tau: float) -> float:  # Theorem 9: its zero; it falls with tau
        return _phi(tau) + _phi(tau / ratio)

    low, high = math.sqrt(ratio), 10 * math.sqrt(ratio)  # the zero is near 2.5 sqrt(ratio)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if balance(middle) > 0 else (low, middle)
    return (1 + low) * (1 + ratio / low)


def _phi(z: float) -> float:
    return math.log1p(z) / z - 0.5


def _noise_variance(squares: Floats, many: int, ratio: float, edge: float) -> float:
    """Return the variance that minimises the free energy, between the bounds of theorem 14."""
    few = len(squares)
    most = min(math.ceil(few / (1 + ratio)) - 1, few - 1)  # as many may stand out
    low = max(squares[most] / (many * edge), squares[most:].mean() / many)
    high = squares.sum() / (few * many)
    for _ in range(2):
        grid = np.geomspace(low, max(high, low), GRID)
        best = int(np.argmin([_free_energy(squares / (many * v), ratio, edge) for v in grid]))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, GRID - 1)]
    return float(grid[best])


def _free_energy(x: Floats, ratio: float, edge: float) -> float:
    """Return the part that depends on the variance; x: squares / (many x variance)."""
    signal = x[x > edge]
    beyond = signal - (1 + ratio)
    tau = (beyond + np.sqrt(beyond**2 - 4 * ratio)) / 2  # x is (1 + tau)(1 + ratio / tau)
    kept = np.log1p(tau) + ratio * np.log1p(tau / ratio) - tau
    return float((x - np.log(x)).sum() + kept.sum())
