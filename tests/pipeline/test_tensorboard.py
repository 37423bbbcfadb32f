"""Tags are those that TensorBoard takes, whatever a training is called."""

import pytest

from kdeploy.pipeline.tensorboard import TensorBoard
from kdeploy.training.fit import EpochRecord, NullCallback

events = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason="the extra is not installed"
)


def test_a_name_of_foreign_signs_becomes_a_tag(tmp_path):
    board = TensorBoard(tmp_path, NullCallback())
    board.started("[/red]\x1b[31m a", 1, 1, 0)
    board.epoch_ended(
        EpochRecord(
            epoch=1, epochs=1, loss=1.5, losses={"k d": 0.25}, validation_accuracy=0.5,
            images_per_second=1.0, seconds=1.0, learning_rate=0.1,
        )
    )  # fmt: skip
    board.logger.finalize("success")
    read = events.EventAccumulator(str(tmp_path))
    read.Reload()
    found = {tag: read.Scalars(tag)[0].value for tag in read.Tags()["scalars"]}
    assert found["__red___31m_a/loss"] == 1.5
    assert found["__red___31m_a/loss/k_d"] == 0.25
