"""Batches of a dataset: gathered as stored, then on the device augmented and normalised."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdeploy.data.contract import Dataset, Preprocessing
from kdeploy.errors import DataError
from kdeploy.fitting.contract import Batch
from kdeploy.fitting.views import View, augmented, fingerprint_of_views, order_of_views


class Normalizer:
    """`Preprocessing.apply` as tensors on a device."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device) -> None:
        per_channel = (-1, *(1 for _ in preprocessing.shape[1:]))
        self.scale = preprocessing.scale
        self.mean = torch.tensor(preprocessing.mean, device=device).reshape(per_channel)
        self.std = torch.tensor(preprocessing.std, device=device).reshape(per_channel)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the model's input from items as stored, (batch, *shape)."""
        return (x.float() * self.scale - self.mean) / self.std


class TrainingBatches:
    """The training part in a new order each epoch; order and augmentation follow from a seed."""

    def __init__(
        self,
        data: Dataset,
        *,
        batch_size: int,
        device: torch.device,
        channels_last: bool,
        views: int = 0,
    ) -> None:
        if not len(data.train):
            raise DataError(f"the training part of {data.name} is empty", hint="check `data`")
        self.data = data
        self.split = data.train
        self.batch_size = batch_size
        self.device = device
        self.is_channels_last = channels_last and len(data.preprocessing.shape) == 3
        self.normalize = Normalizer(data.preprocessing, device)
        self.augment = None
        if data.augment:
            from kdeploy.data.augmentation import augmenter

            self.augment = augmenter(data.augment, data.preprocessing.shape)
        # What is not augmented has one version, whatever was asked for.
        self.views = views if self.augment else 1

    @property
    def steps(self) -> int:
        """Batches to an epoch; a last batch of one item is left out, batch norm cannot take it."""
        full, rest = divmod(len(self.split), self.batch_size)
        return full + (rest > (1 if full else 0))

    def view(self, epoch: int, *, seed: int, passed: Callable[[int, int], None]) -> View | None:
        """Return what the epoch shows of all items, or None where each batch is drawn anew."""
        if not self.views:
            return None
        index = order_of_views(self.views, seed=seed, epoch=epoch)
        stored = self.split.x
        return View(
            index=index,
            count=self.views,
            fingerprint=self._views_fingerprint,
            items=augmented(stored, self.augment, view=index) if self.augment else stored,
            preprocessed=lambda items: self._preprocessed(self._to_device(items).float()),
            passed=passed,
        )

    def epoch(self, seed: list[int], view: View | None = None) -> Iterator[Batch]:
        """Yield batches on the device, of a view of the items or each augmented anew."""
        order = np.random.default_rng(seed).permutation(len(self.split))
        items = view.items if view else self.split.x
        for step in range(self.steps):
            rows = order[step * self.batch_size : (step + 1) * self.batch_size]
            x = self._to_device(items[rows]).float()
            if self.augment is not None and view is None:
                x = self.augment(x)
            yield Batch(
                x=self._preprocessed(x),
                labels=self._to_device(self.split.y[rows]),
                rows=torch.from_numpy(rows),
                view=view.index if view else -1,
            )

    @cached_property
    def _views_fingerprint(self) -> str:
        return fingerprint_of_views(self.data, self.views)

    def _preprocessed(self, x: Tensor) -> Tensor:
        x = self.normalize(x)
        return x.contiguous(memory_format=torch.channels_last) if self.is_channels_last else x

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
