"""Planted teachers: one that helps, one that says what labels say, one that is wrong."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.data.contract import Dataset, Preprocessing, Split
from kdeploy.distill.config import DistillConfig
from kdeploy.distill.control import LOOK, effect_of
from kdeploy.distill.run import distill
from kdeploy.training.early_look import EarlyLook
from kdeploy.training.fit import FitContext, Supervised, fit

CLASSES, WIDTH = 4, 16
CENTRES = np.random.default_rng(5).standard_normal((CLASSES, 1, WIDTH)).astype(np.float32)


class Knows(nn.Module):
    """Answers with the nearest class, or with the one beside it."""

    def __init__(self, *, sharpness=1.0, turned=0):
        super().__init__()
        self.register_buffer("centres", torch.from_numpy(CENTRES))
        self.sharpness, self.turned = sharpness, turned

    def forward(self, x):
        distances = (x[:, None] - self.centres).square().sum(dim=(2, 3))
        return (-self.sharpness * distances).roll(self.turned, dims=1)


def part(count, seed, *, wrong=0.0):
    generator = np.random.default_rng(seed)
    y = generator.integers(0, CLASSES, count)
    x = CENTRES[y] + 0.8 * generator.standard_normal((count, 1, WIDTH), dtype=np.float32)
    drawn = generator.integers(0, CLASSES, count)
    return Split(x=x, y=np.where(generator.random(count) < wrong, drawn, y))


def data(*, wrong=0.0):
    classes = tuple("abcd")
    return Dataset(
        name="planted",
        train=part(960, 1, wrong=wrong),
        validation=part(600, 2),
        test=part(10, 3),
        preprocessing=Preprocessing(shape=(1, WIDTH), classes=classes),
        fingerprint=f"planted {wrong}",
    )


def student(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(WIDTH, 6), nn.ReLU(), nn.Linear(6, CLASSES))


def effect(teacher, known, **config):
    """Distil, train the control as far, and return what the teacher did."""
    config = DistillConfig(epochs=10, precision="fp32", channels_last=False, **config)
    own, other = student(0), student(0)
    done = distill(own, teacher, known, FitContext(look=LOOK), config)
    seen = done.fit.seen
    look = EarlyLook(fraction=0.0, fewest_steps=seen.after_steps, ends=True)
    control = fit(Supervised(other), known, FitContext(look=look), done.fit.settings).seen
    assert control.after_steps == seen.after_steps < seen.of_steps
    return effect_of(
        seen.right,
        control.right,
        after_steps=seen.after_steps,
        of_steps=seen.of_steps,
        teacher_accuracy=done.teacher_accuracy,
        are_weights_given="label_weight" in config.model_fields_set,
    )


def test_a_teacher_that_knows_better_than_noisy_labels_helps():
    kd = [{"kd": {"temperature": 1.0, "weight": 1.0}}]
    found = effect(Knows(), data(wrong=0.9), losses=kd, label_weight=0.1, wrong_weight=1.0)
    assert found.verdict == "helped", found.sentence
    assert found.teacher_accuracy > 0.9


def test_a_teacher_that_says_what_the_labels_say_makes_no_difference():
    known = data()
    right = replace(known, train=replace(known.train, y=_nearest(known.train.x)))
    kd = [{"kd": {"temperature": 1.0, "weight": 1.0}}]
    found = effect(Knows(sharpness=50.0), right, losses=kd, label_weight=1.0)
    assert found.verdict == "no difference", found.sentence


def test_a_teacher_that_is_wrong_hurts_and_the_sentence_says_why():
    kd = [{"kd": {"temperature": 1.0, "weight": 1.0}}]
    found = effect(Knows(turned=1), data(), losses=kd, label_weight=0.1)
    assert found.verdict == "hurt", found.sentence
    assert "the student without it" in found.sentence


def test_a_wrong_teacher_does_no_harm_where_its_mistakes_do_not_count():
    found = effect(Knows(turned=1), data(), losses=["kd"])
    assert found.verdict == "no difference", found.sentence


def test_the_control_is_the_student_up_to_the_teacher():
    known, first = data(), student(0)
    twin = copy.deepcopy(first)
    plain = {"precision": "fp32", "channels_last": False}
    config = DistillConfig(epochs=2, losses=[], label_weight=1.0, **plain)
    seen = distill(first, Knows(), known, FitContext(look=LOOK), config).fit
    look = EarlyLook(fraction=0.0, fewest_steps=seen.seen.after_steps, ends=True)
    control = fit(Supervised(twin), known, FitContext(look=look), seen.settings).seen
    np.testing.assert_array_equal(control.right, seen.seen.right)


def _nearest(x):
    with torch.no_grad():
        return Knows()(torch.from_numpy(x)).argmax(dim=1).numpy()


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level("ERROR")
