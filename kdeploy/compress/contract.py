"""What a compressor is: a function from a model and its context to a smaller model.

`@compressor(paper=, before={...}, ensures=check)` marks `(model, context, *, ...) -> model`.
`before` names the techniques that may only come later in a chain; `recoverable=False` says that
the result cannot be trained; `ensures(model) -> None` raises `AssertionError` when the result does
not hold what the technique promises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from kdeploy.data.contract import Dataset, Split
from kdeploy.registry import Decorated, register

compressor: Callable[..., Callable[[Decorated], Decorated]] = partial(register, "compressor")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressContext:
    """What a compressor may look at: training and validation data, never the test part."""

    data: Dataset
    seed: int = 0
    device: str = "cpu"

    @property
    def example(self) -> Tensor:
        """Return two preprocessed training items (2, *shape): enough to trace a model."""
        return next(self.batches(self.data.train, 2, 1))[0]

    def batches(self, part: Split, batch_size: int, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield up to `count` preprocessed batches and labels, drawn by the seed, no item twice."""
        order = np.random.default_rng(self.seed).permutation(len(part))
        for start in range(0, min(len(order), batch_size * count), batch_size):
            # Sorted, so that memory-mapped data is read forwards.
            rows = np.sort(order[start : start + batch_size])
            x = torch.from_numpy(self.data.preprocessing.apply(part.x[rows]))
            yield x.to(self.device), torch.from_numpy(part.y[rows]).to(self.device)
