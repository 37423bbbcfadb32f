"""A distillation that is interrupted within each of its epochs ends as if it had not been."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kdeploy.distill.config import DistillConfig
from kdeploy.distill.run import distill
from kdeploy.training.fit import FitContext, NullCallback

EPOCHS, STEPS = 4, 3
LOSSES = [
    {"kd": {"weight": {"adaptive": {"start": 0.9, "factor": 0.5, "patience": 1}}}},
    {"hints": {"layers": {"blocks.1": "blocks.1"}, "weight": 0.1}},
    {"crd": {"layers": {"blocks.1": "blocks.1"}, "weight": 0.1, "negatives": 16}},
]
TRAINING = {
    "epochs": EPOCHS,
    "batch_size": 32,
    "accumulate": 2,
    "learning_rate": 0.05,
    "precision": "fp32",
    "ema": 0.9,
    "views": 2,
    "keep": "last",
}


class Stopping(NullCallback):
    """Interrupts within an epoch; None: never."""

    def __init__(self, epoch):
        self.left = None if epoch is None else epoch * STEPS + 2

    def started(self, name, epochs, steps, done_epochs):
        assert steps == STEPS
        self.left = None if self.left is None else self.left - done_epochs * steps

    def stepped(self, images):
        if self.left is not None:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def train(tiny_model, tiny_data):
    """Return a function that distils in a folder; the student's weights and the history."""
    data = replace(tiny_data, augment=("random_crop",))

    def go(folder, *, stop_in=None):
        callback = Stopping(stop_in)
        context = FitContext(seed=2, work=folder, cache=folder / "cache", callback=callback)
        student = tiny_model(seed=2, width=4)
        teacher = tiny_model(seed=1, width=6)
        torch.rand(7)  # the global generator is elsewhere in another process
        done = distill(student, teacher, data, context, DistillConfig(losses=LOSSES, **TRAINING))
        return student.state_dict(), [(r.losses, r.validation_accuracy) for r in done.fit.history]

    return go


def test_interrupted_within_every_epoch_it_ends_in_the_same_weights(train, tmp_path):
    expected, history = train(tmp_path / "straight")
    for epoch in range(EPOCHS):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "stopped", stop_in=epoch)
    weights, resumed_history = train(tmp_path / "stopped")
    assert resumed_history == history
    assert all(torch.equal(value, weights[key]) for key, value in expected.items())
    factors = [losses["kd"] for losses, _ in history]
    assert factors[-1] < factors[0], "the adaptive weight has faded"
