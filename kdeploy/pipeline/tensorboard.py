"""Write the epochs of all trainings as events for TensorBoard, when asked."""

from __future__ import annotations

import re
from pathlib import Path

from kdeploy.errors import MissingDependency
from kdeploy.training.fit import EpochRecord, TrainingCallback


class TensorBoard:
    """A callback that writes events to a folder and passes all on to another callback."""

    def __init__(self, folder: Path, callback: TrainingCallback) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingDependency.named(
                "tensorboard", needed_for="--tensorboard", pip="'kdeploy[tensorboard]'"
            ) from None
        self.writer = SummaryWriter(str(folder))
        self.callback = callback
        self.name = ""

    def started(self, name: str, epochs: int, steps: int, done_epochs: int) -> None:
        self.name = name
        self.callback.started(name, epochs, steps, done_epochs)

    def prepared(self, done: int, items: int) -> None:
        self.callback.prepared(done, items)

    def stepped(self, images: int) -> None:
        self.callback.stepped(images)

    def epoch_ended(self, record: EpochRecord) -> None:
        scalars = {
            "loss": record.loss,
            "validation_accuracy": record.validation_accuracy,
            "learning_rate": record.learning_rate,
            "items_per_second": record.images_per_second,
            **{f"loss/{name}": value for name, value in record.losses.items()},
        }
        for name, value in scalars.items():
            tag = _tag(f"{self.name.replace('/', '_')}/{name}")
            self.writer.add_scalar(tag, value, record.epoch)
        self.writer.flush()
        self.callback.epoch_ended(record)

    def ended(self) -> None:
        self.callback.ended()


def _tag(name: str) -> str:
    """Return a name as TensorBoard has them; it takes no other signs."""
    return re.sub(r"[^-/.\w]", "_", name, flags=re.ASCII)
