"""Batches of a dataset: gathered as stored, then on the device augmented and normalised."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdeploy.data.contract import Dataset, Preprocessing
from kdeploy.data.lazy_items import LazyItems, is_repeatable
from kdeploy.data.mixing import mixer
from kdeploy.errors import DataError
from kdeploy.named_arrays import NamedArrays, by_name, mapped
from kdeploy.system.interruption import stop_if_asked
from kdeploy.torch_module.named_inputs import NamedTensors, each_of, tensors_of
from kdeploy.training.contract import Batch
from kdeploy.training.prefetch import ahead
from kdeploy.training.processes import ALONE, Processes
from kdeploy.training.views import (
    MEMORY_BYTES,
    View,
    augmented,
    fingerprint_of_views,
    order_of_views,
)

logger = logging.getLogger(__name__)


class Normalizer:
    """`Preprocessing.apply` as tensors on a device."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device) -> None:
        self.inputs = {name: Normalizer(p, device) for name, p in preprocessing.inputs.items()}
        self.is_tokens = preprocessing.is_tokens
        per_channel = (-1, *(1 for _ in preprocessing.shape[1:]))
        self.scale = preprocessing.scale
        self.mean = torch.tensor(preprocessing.mean, device=device).reshape(per_channel)
        self.std = torch.tensor(preprocessing.std, device=device).reshape(per_channel)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the model's input from items as stored, (batch, *shape)."""
        if self.inputs:
            made = {name: self.inputs[name](tensor) for name, tensor in each_of(x)}
            return cast("Tensor", NamedTensors(made))
        if self.is_tokens:
            return x.long()
        return (x.float() * self.scale - self.mean) / self.std


class TrainingBatches:
    """The training part in a new order each epoch; order and augmentation follow from a seed.

    All processes draw the same order, and each takes its share of every step.
    """

    def __init__(
        self,
        data: Dataset,
        *,
        batch_size: int,
        device: torch.device,
        channels_last: bool,
        views: int = 0,
        accumulate: int = 1,
        processes: Processes = ALONE,
    ) -> None:
        if not len(data.train):
            raise DataError(f"the training part of {data.name} is empty", hint="check `data`")
        self.data = data
        self.split = data.train
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.processes = processes
        self.device = device
        self.lay_out(channels_last=channels_last)
        self.normalize = Normalizer(data.preprocessing, device)
        self.augment, self.mix, self.move = None, None, None
        if data.augment and data.moves:
            from kdeploy.data.moving_augmentation import moving_augmenter

            self.move = moving_augmenter(data.augment, self._image.shape, self.split.y.shape[1:])
        elif data.augment:
            from kdeploy.data.augmentation import augmenter

            self.augment = augmenter(data.augment, self._image.shape)
            self.mix = mixer(data.augment, data.num_classes)
        self._versions: dict[int, NDArray[Any]] = {}
        # What is not augmented has one version, whatever was asked for; a mix is always new.
        self.views = 0 if self.mix else views if self.augment else 1
        if self.move is not None or not is_repeatable(self.split.x):
            self.views = 0
        if views and (self.mix or self.move):
            logger.warning("`views` has no effect: each mix of items, or of targets, is drawn anew")

    def lay_out(self, *, channels_last: bool) -> None:
        """Let images have their channels innermost from now on, or not."""
        self.is_channels_last = channels_last and len(self._image.shape) == 3

    @property
    def steps(self) -> int:
        """Batches to an epoch; a last batch of one item is left out, batch norm cannot take it."""
        full, rest = divmod(len(self.split), self.batch_size)
        # A single item is trained on only where it is all there is.
        return full + (rest > (1 if full else 0))

    def view(self, epoch: int, *, seed: int, passed: Callable[[int, int], None]) -> View | None:
        """Return what the epoch shows of all items, or None where each batch is drawn anew."""
        if not self.views:
            return None
        index = order_of_views(self.views, seed=seed, epoch=epoch)
        return View(
            index=index,
            count=self.views,
            fingerprint=self._views_fingerprint,
            items=self._version(index),
            preprocessed=lambda items: self._preprocessed(
                self._pinned(items).to(self.device, non_blocking=True)
            ),
            passed=passed,
        )

    def epoch(self, seed: list[int], view: View | None = None) -> Generator[Batch, None, None]:
        """Yield batches on the device, of a view of the items or each augmented anew."""
        order = np.random.default_rng(seed).permutation(len(self.split))
        items = view.items if view else self.split.x
        shares = [self._share(order, step) for step in range(self.steps)]

        def gathered(rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
            # Rows of a mapped file are read here, in the thread that works ahead.
            return self._pinned(items[rows]), self._pinned(self.split.y[rows])

        # Not from memory on a CPU: there a thread costs more than it hides.
        in_order = ahead if self.device.type == "cuda" or _is_mapped(items) else map
        for rows, (x, labels) in zip(shares, in_order(gathered, shares), strict=True):
            stop_if_asked()
            x = x.to(self.device, non_blocking=True)
            labels = labels.to(self.device, non_blocking=True)
            if self.augment is not None and view is None:
                x = self._with_image(x, self.augment(self._image_of(x)))
            if self.move is not None:
                image, labels = self.move(self._image_of(x), labels)
                x = self._with_image(x, image)
            if self.mix is not None:
                image, labels = self.mix(self._image_of(x), labels)
                x = self._with_image(x, image)
            yield Batch(
                x=self._preprocessed(x),
                labels=labels,
                rows=torch.from_numpy(rows),
                view=view.index if view else -1,
            )

    def size(self, step: int) -> int:
        """Return the items of a step of an epoch, over all processes."""
        return min(self.batch_size, len(self.split) - step * self.batch_size)

    def cut(self, batch: Batch, step: int) -> list[Batch]:
        """Return the parts of this process's share of a step, each with the part that it is.

        As many in every process, and of two items or more, for batch norm; the parts' own share
        adds up to 1 over all processes.
        """
        size, count = self.size(step), self.processes.count
        items = len(batch.rows)
        smallest = size // count if self._is_shared(size) else size
        num_parts = max(1, min(self.accumulate, smallest // 2))
        # What is too small to be shared, each process learns whole.
        whole = items / size if self._is_shared(size) else 1 / count
        if num_parts == 1:
            return [batch._replace(share=whole)]
        parts = zip(
            *(t.tensor_split(num_parts) for t in (batch.x, batch.labels, batch.rows)), strict=True
        )
        return [
            batch._replace(x=x, labels=labels, rows=rows, share=whole * len(rows) / items)
            for x, labels, rows in parts
        ]

    def part_sizes(self) -> list[int]:
        """Return the distinct numbers of items, in any process, that are learned from at once."""
        found = set()
        for size in {self.size(0), self.size(self.steps - 1)}:
            count = self.processes.count if self._is_shared(size) else 1
            # `array_split` gives the first processes one item more.
            for share in {size // count, -(-size // count)}:
                parts = max(1, min(self.accumulate, size // count // 2))
                found |= {share // parts, -(-share // parts)}
        return sorted(found, reverse=True)

    def _share(self, order: NDArray[np.int64], step: int) -> NDArray[np.int64]:
        rows = order[step * self.batch_size : (step + 1) * self.batch_size]
        if not self._is_shared(len(rows)):
            return rows
        return np.array_split(rows, self.processes.count)[self.processes.rank]

    def _is_shared(self, size: int) -> bool:
        return size >= 2 * self.processes.count

    def _version(self, index: int) -> NDArray[Any]:
        """Return all items in one version, kept where all versions fit into memory."""
        if self.augment is None:
            return self.split.x
        if index not in self._versions:
            made = self._augmented(self.augment, index)
            if self.views * made.nbytes > MEMORY_BYTES:
                return made
            self._versions[index] = made
        return self._versions[index]

    def _augmented(self, augment: Callable[[Tensor], Tensor], index: int) -> NDArray[Any]:
        name, stored = self.data.preprocessing.image, dict(by_name(self.split.x))
        if name is None:
            return augmented(self.split.x, augment, view=index)
        changed = augmented(stored[name], augment, view=index)
        return cast("NDArray[Any]", NamedArrays({**stored, name: changed}))

    @property
    def _image(self) -> Preprocessing:
        """What is said of the items that are augmented: of several inputs, of the only image."""
        known = self.data.preprocessing
        return known.inputs.get(known.image or "", known)

    def _image_of(self, x: Tensor) -> Tensor:
        """Return what is augmented of a batch as stored, as floats."""
        image = dict(each_of(x))[self.data.preprocessing.image or ""]
        return image if self.normalize.is_tokens else image.float()

    def _with_image(self, x: Tensor, image: Tensor) -> Tensor:
        name = self.data.preprocessing.image
        return (
            image
            if name is None
            else cast("Tensor", NamedTensors({**dict(each_of(x)), name: image}))
        )

    @cached_property
    def _views_fingerprint(self) -> str:
        return fingerprint_of_views(self.data, self.views)

    def _preprocessed(self, x: Tensor) -> Tensor:
        x = self.normalize(x)
        if not self.is_channels_last:
            return x
        image = dict(each_of(x))[self.data.preprocessing.image or ""]
        return self._with_image(x, image.contiguous(memory_format=torch.channels_last))

    def _pinned(self, items: Any) -> Tensor:
        if isinstance(items, NamedArrays):
            return cast(
                "Tensor", NamedTensors({n: self._pinned(a) for n, a in items.arrays.items()})
            )
        tensor = torch.from_numpy(np.ascontiguousarray(items))
        # Pinned, the copy to a GPU does not wait for the steps queued before it.
        return tensor if self.device.type == "cpu" else tensor.pin_memory()


def batches_in_order(
    stored: NDArray[Any], preprocessing: Preprocessing, *, batch_size: int, device: torch.device
) -> Iterator[Tensor]:
    """Yield the inputs for items as stored, in their order and without augmentation."""
    normalize = Normalizer(preprocessing, device)
    for start in range(0, len(stored), batch_size):
        stop_if_asked()
        # A copy: torch does not take arrays that are mapped read-only.
        copied = mapped(np.array, stored[start : start + batch_size])
        yield normalize(tensors_of(copied).to(device))


def _is_mapped(items: Any) -> bool:
    if isinstance(items, NamedArrays):
        return any(_is_mapped(array) for array in items.arrays.values())
    parts = getattr(items, "parts", (items,))  # of `Joined`
    return any(
        isinstance(getattr(p, "stored", p), np.memmap | LazyItems) for p in parts
    )  # `stored` of `Rows`
