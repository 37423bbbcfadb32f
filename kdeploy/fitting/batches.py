"""Batches of a dataset: gathered as stored, then on the device augmented and normalised."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdeploy.data.contract import Dataset, Preprocessing
from kdeploy.errors import DataError


class Normalizer:
    """`Preprocessing.apply` as tensors on a device."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device) -> None:
        self.is_tokens = preprocessing.is_tokens
        per_channel = (-1, *(1 for _ in preprocessing.shape[1:]))
        self.scale = preprocessing.scale
        self.mean = torch.tensor(preprocessing.mean, device=device).reshape(per_channel)
        self.std = torch.tensor(preprocessing.std, device=device).reshape(per_channel)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the model's input from items as stored, (batch, *shape)."""
        if self.is_tokens:
            return x.long()
        return (x.float() * self.scale - self.mean) / self.std


class TrainingBatches:
    """The training part in a new order each epoch; order and augmentation follow from a seed."""

    def __init__(
        self, data: Dataset, *, batch_size: int, device: torch.device, channels_last: bool
    ) -> None:
        if not len(data.train):
            raise DataError(f"the training part of {data.name} is empty", hint="check `data`")
        self.split = data.train
        self.batch_size = batch_size
        self.device = device
        self.is_channels_last = channels_last and len(data.preprocessing.shape) == 3
        self.normalize = Normalizer(data.preprocessing, device)
        self.augment = None
        if data.augment:
            from kdeploy.data.augmentation import augmenter

            self.augment = augmenter(data.augment, data.preprocessing.shape)

    @property
    def steps(self) -> int:
        """Batches to an epoch; a last batch of one item is left out, batch norm cannot take it."""
        full, rest = divmod(len(self.split), self.batch_size)
        return full + (rest > (1 if full else 0))

    def epoch(self, seed: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield input and labels on the device."""
        order = np.random.default_rng(seed).permutation(len(self.split))
        for step in range(self.steps):
            rows = order[step * self.batch_size : (step + 1) * self.batch_size]
            x = self._to_device(self.split.x[rows])
            if self.augment is not None:
                x = self.augment(x.float())
            x = self.normalize(x)
            if self.is_channels_last:
                x = x.contiguous(memory_format=torch.channels_last)
            yield x, self._to_device(self.split.y[rows])

    def _to_device(self, array: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self.device.type == "cpu":
            return tensor
        # Pinned, the copy does not wait for the steps queued before it.
        return tensor.pin_memory().to(self.device, non_blocking=True)


def batches_in_order(
    stored: NDArray[Any], preprocessing: Preprocessing, *, batch_size: int, device: torch.device
) -> Iterator[Tensor]:
    """Yield the inputs for items as stored, in their order and without augmentation."""
    normalize = Normalizer(preprocessing, device)
    for start in range(0, len(stored), batch_size):
        # A copy: torch does not take arrays that are mapped read-only.
        yield normalize(torch.from_numpy(np.array(stored[start : start + batch_size])).to(device))
