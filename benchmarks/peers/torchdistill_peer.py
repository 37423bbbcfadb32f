"""Distillation by torchdistill, driven as its own image classification example drives it.

    pip install --no-deps torchdistill==1.1.5

https://github.com/yoshitomo-matsubara/torchdistill; the loop follows its
`examples/torchvision/image_classification.py`, the box is built from dictionaries with the keys of
its `configs/sample/cifar10/kd/`. Their values differ from the samples' only where the other
candidates would else do other work: the weights of the two terms, the optimizer's numbers, no
schedule, items in memory, whole batches augmented in the collate function, and no worker process,
which would take a core that the others use for arithmetic.

Its imports want torchvision, for registries that this never asks; a stand-in serves them, so that
the peer also runs where there is no torchvision that fits this torch.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import RandomSampler, TensorDataset, default_collate

from kdeploy.data.augmentation import augmenter
from kdeploy.data.contract import Dataset
from kdeploy.training.batches import Normalizer

CPU = torch.device("cpu")
TRAIN, COLLATE = "train", "kdeploy_peer_collate"
LOG_EVERY = 100
"""Steps, as in the samples."""
TORCHVISION: Mapping[str, tuple[str, ...]] = {
    "torchvision": (),
    "torchvision.datasets": (),
    "torchvision.models": (),
    "torchvision.models.densenet": ("_DenseBlock", "_Transition"),
    "torchvision.models.resnet": ("BasicBlock", "conv1x1"),
}
"""What torchdistill's modules take from torchvision when they are imported."""


def unavailable() -> str | None:
    """Return why torchdistill cannot be imported, or None when it can."""
    try:
        with _torchvision_stand_in():
            import torchdistill.core.distillation  # noqa: F401
    except (ImportError, AttributeError) as error:
        return f"torchdistill cannot be imported: {error}"
    return None


class Peer:
    """A teacher and a student in torchdistill's box; `run` trains the student itself.

    Args:
        teacher: Copied, because the box freezes it.
        student: Trained in place.
        data: Its training part, with its augmentation.
        batch_size: Items in every step.
    """

    def __init__(
        self, teacher: nn.Module, student: nn.Module, data: Dataset, batch_size: int
    ) -> None:
        with _torchvision_stand_in():
            from torchdistill import __version__
            from torchdistill.core.distillation import get_distillation_box
            from torchdistill.datasets.registry import register_collate_func

        self.name = f"torchdistill {__version__}"
        register_collate_func(key=COLLATE)(_collate(data))
        # Neither the box nor the example puts the teacher into eval mode.
        teacher = copy.deepcopy(teacher).to(memory_format=torch.contiguous_format).eval()
        items = TensorDataset(torch.tensor(data.train.x[:]), torch.tensor(data.train.y))
        self.box = get_distillation_box(
            teacher,
            student,
            dataset_dict={TRAIN: items},
            train_config=_configuration(batch_size),
            device=CPU,
            device_ids=None,
            distributed=False,
            lr_factor=1,
        )

    def run(self, steps: int) -> None:
        """Train `steps` steps, the items in a new order, and again in another when they run out."""
        epochs, rest = divmod(steps, len(self.box.train_data_loader))
        for epoch, count in enumerate([*[len(self.box.train_data_loader)] * epochs, rest]):
            self.box.pre_epoch_process(epoch=epoch)
            self._train(count)
            self.box.post_epoch_process()

    def _train(self, steps: int) -> None:
        from torchdistill.misc.log import MetricLogger, SmoothedValue

        log = MetricLogger(delimiter="  ")
        log.add_meter("lr", SmoothedValue(window_size=1, fmt="{value}"))
        log.add_meter("img/s", SmoothedValue(window_size=10, fmt="{value}"))
        batches = log.log_every(self.box.train_data_loader, LOG_EVERY, "Epoch:")
        for x, labels, extra in islice(batches, steps):
            started = time.time()
            loss = self.box.forward_process(x, labels, extra)
            self.box.post_forward_process(loss=loss)
            log.update(loss=loss.item(), lr=self.box.optimizer.param_groups[0]["lr"])
            log.meters["img/s"].update(len(x) / (time.time() - started))
            if not torch.isfinite(loss):
                raise ValueError(f"torchdistill's loss is {loss}")


def _configuration(batch_size: int) -> dict[str, Any]:
    """Return the box's configuration: 0.1 of the labels' term, 0.9 of the teacher's at T = 4."""
    kd = {
        "key": "KDLoss",
        "kwargs": {
            "student_module_path": ".",
            "student_module_io": "output",
            "teacher_module_path": ".",
            "teacher_module_io": "output",
            "temperature": 4.0,
            "alpha": 0.1,  # of the labels; the samples have 0.9
            "reduction": "batchmean",
        },
    }
    model = {"forward_proc": "forward_batch_only", "sequential": [], "frozen_modules": []}
    return {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": TRAIN,
            "sampler": {"class_or_func": RandomSampler, "kwargs": None},
            "collate_fn": COLLATE,
            "kwargs": {"batch_size": batch_size, "num_workers": 0, "drop_last": True},
        },
        "teacher": {**model, "requires_grad": False},
        "student": {**model, "requires_grad": True},
        "optimizer": {"key": "SGD", "kwargs": {"lr": 0.05, "momentum": 0.9, "nesterov": True}},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": kd, "weight": 1.0}}},
        },
    }


def _collate(data: Dataset) -> Callable[[list[Any]], tuple[Tensor, Tensor, Any]]:
    """Return the function that makes a batch: stacked, augmented, normalised."""
    augment = augmenter(data.augment, data.preprocessing.shape)
    normalize = Normalizer(data.preprocessing, CPU)

    def collate(items: list[Any]) -> tuple[Tensor, Tensor, Any]:
        x, labels, extra = default_collate(items)
        x = x.float()
        return normalize(augment(x) if augment else x), labels, extra

    return collate


@contextmanager
def _torchvision_stand_in() -> Iterator[None]:
    """Let imports find empty torchvision modules; what was there before is there again after."""
    before = {name: sys.modules.get(name) for name in TORCHVISION}
    for name, members in TORCHVISION.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(dict.fromkeys(members, nn.Module))
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
