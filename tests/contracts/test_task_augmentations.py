"""Every task with every augmentation: what a target says stays true, or it is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdeploy import registry
from kdeploy.data.augmentation import AUGMENTATIONS, MIXES
from kdeploy.data.contract import Split, TaskReference, places_of
from kdeploy.data.load import DataReference, load
from kdeploy.data.moving_augmentation import check_targets
from kdeploy.data.task_by_name import named_task
from kdeploy.errors import DataError
from kdeploy.training.batches import TrainingBatches
from tests.tiny.tasks import ALPHABET, arrays_of

ALL = sorted({*AUGMENTATIONS, *MIXES})
SHIFTS = {
    "horizontal_flip",
    "random_crop",
    "rotation",
    "auto_augment",
    "rand_augment",
    "time_shift",
}
BOXES = np.tile(np.float32([2, 2, 9, 9, 0]), (8, 3, 1))
TARGETS = {
    "classification": np.arange(8) % 3,
    "detection": BOXES,
    "segmentation": np.zeros((8, 16, 16), np.int64),
    "keypoint_heatmaps": np.ones((8, 2, 3), np.float32),
    "tokens": np.zeros((8, 16), np.int64),
    "language_modeling": np.zeros((8, 16), np.int64),
    "regression": np.zeros((8, 2), np.float32),
    "multi_label": np.zeros((8, 4), np.int64),
    "embedding": np.arange(8),
    "ctc": np.zeros((8, 3), np.int64),
}
"""A target as each task stores it; a task that is added is named here."""
IN_PLACE = {"color_jitter", "jitter", "scaling", "random_erasing"}
MOVED = {"horizontal_flip", "random_crop", "rotation"}
TAKES = {
    "classification": set(ALL),
    "detection": IN_PLACE | MOVED,
    "segmentation": IN_PLACE | MOVED,
    "keypoint_heatmaps": IN_PLACE | MOVED - {"horizontal_flip"},
    "tokens": IN_PLACE,
    "language_modeling": IN_PLACE,
    "regression": set(ALL) - set(MIXES),
    "multi_label": set(ALL) - set(MIXES),
    "embedding": set(ALL) - set(MIXES),
    "ctc": set(ALL) - set(MIXES) - {"horizontal_flip"},
}


def task_named(name):
    parameters = {"ctc": {"alphabet": ALPHABET}}.get(name, {})
    return named_task(TaskReference(name=name, parameters=parameters))


def split(y):
    return Split(x=np.zeros((len(y), 1, 16, 16), np.float32), y=y)


@pytest.mark.parametrize("augmentation", ALL)
@pytest.mark.parametrize("name", sorted(registry.techniques("task")))
def test_an_augmentation_fits_the_task_or_is_refused_with_a_hint(name, augmentation):
    train = split(TARGETS[name])
    if augmentation in TAKES[name]:
        check_targets([augmentation], train, task_named(name))
        return
    with pytest.raises(DataError, match=f"`{augmentation}`") as caught:
        check_targets([augmentation], train, task_named(name))
    assert caught.value.hint


PAIRS = [(n, a) for n in ("segmentation", "keypoint_heatmaps") for a in sorted(TAKES[n] & MOVED)]


@pytest.mark.parametrize(("name", "augmentation"), PAIRS)
def test_what_is_taken_moves_the_targets_of_a_batch(tmp_path, name, augmentation):
    data = loaded(name, tmp_path, augmentation)
    torch.manual_seed(0)
    batches = TrainingBatches(data, batch_size=32, device=torch.device("cpu"), channels_last=False)
    batch = next(batches.epoch([0]))
    stored = torch.from_numpy(np.array(data.train.y[batch.rows.numpy()]))
    assert batch.labels.shape == stored.shape
    assert (batch.labels != stored).any()


def loaded(name, folder, *augment, y=None):
    own = arrays_of(name)
    y = own[1] if y is None else y
    np.savez(folder / "train.npz", x=own[0], y=y)
    np.savez(folder / "test.npz", x=own[0], y=y)
    files = {part: str(folder / f"{part}.npz") for part in ("train", "test")}
    return load(
        DataReference(
            name="arrays", parameters=files, task=TaskReference(name=name), augment=augment
        )
    )


@pytest.mark.parametrize("augmentation", sorted(MOVED | {"auto_augment", "rand_augment"}))
def test_points_that_are_regressed_are_not_left_behind(tmp_path, augmentation):
    points = np.random.default_rng(0).random((len(arrays_of("regression")[0]), 4, 2))
    with pytest.raises(DataError, match=f"`{augmentation}` does not move") as caught:
        loaded("regression", tmp_path, augmentation, y=points)
    assert "color_jitter" in caught.value.hint


def test_numbers_that_may_be_places_are_told(tmp_path):
    data = loaded("regression", tmp_path, "color_jitter", "horizontal_flip")
    assert any("stay as they are after `horizontal_flip`:" in note for note in data.notes)
    other = loaded("embedding", tmp_path, "horizontal_flip")
    assert not any("stay as they are" in note for note in other.notes)


def test_a_class_for_each_step_of_a_signal_is_not_left_behind():
    train = Split(x=np.zeros((8, 2, 16), np.float32), y=np.zeros((8, 16), np.int64))
    for name in ("time_shift", "mixup"):
        with pytest.raises(DataError, match=f"`{name}`"):
            check_targets([name], train, task_named("classification"))
    check_targets(["jitter", "scaling"], train, task_named("classification"))


def test_items_that_nobody_labelled_have_nothing_to_move():
    train = split(np.full(8, -100))
    assert places_of(task_named("segmentation"), train) is False
    check_targets(["auto_augment"], train, task_named("segmentation"))
