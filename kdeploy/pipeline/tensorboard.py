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
            import torch.utils.tensorboard  # noqa: F401
            from lightning_fabric.loggers import TensorBoardLogger
        except ImportError:
            raise MissingDependency.named(
                "tensorboard", needed_for="--tensorboard", pip="'kdeploy[tensorboard]'"
            ) from None
        self.logger = TensorBoardLogger(folder, name="", version="")
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
        training = self.name.replace("/", "_")
        tagged = {_tag(f"{training}/{name}"): value for name, value in scalars.items()}
        self.logger.log_metrics(tagged, record.epoch)
        self.logger.save()
        self.callback.epoch_ended(record)

    def ended(self) -> None:
        self.callback.ended()


def _tag(name: str) -> str:
    """Return a name as TensorBoard has them; it takes no other signs."""
    return re.sub(r"[^-/.\w]", "_", name, flags=re.ASCII)
