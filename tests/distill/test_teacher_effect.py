"""Planted teachers: one that helps, one that says what labels say, one that is wrong."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy import registry
from kdeploy.data.contract import Dataset, Parts, Preprocessing, Split
from kdeploy.distill.config import DistillConfig
from kdeploy.distill.control import LOOK, effect_of
from kdeploy.distill.run import distill
from kdeploy.tasks.contract import facts_of, task_of
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


def student(seed, classes=CLASSES):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(WIDTH, 6), nn.ReLU(), nn.Linear(6, classes))


def effect(teacher, known, *, classes=CLASSES, **config):
    """Distil, train the control as far, and return what the teacher did."""
    config = DistillConfig(epochs=10, precision="fp32", channels_last=False, **config)
    own, other = student(0, classes), student(0, classes)
    done = distill(own, teacher, known, FitContext(look=LOOK), config)
    seen = done.fit.seen
    look = EarlyLook(fraction=0.0, fewest_steps=seen.after_steps, ends=True)
    objective = Supervised(other, task=task_of(known))
    control = fit(objective, known, FitContext(look=look), done.fit.settings).seen
    assert control.after_steps == seen.after_steps < seen.of_steps
    task = task_of(known)
    return effect_of(
        seen.scores,
        control.scores,
        after_steps=seen.after_steps,
        of_steps=seen.of_steps,
        teacher_accuracy=done.teacher_accuracy,
        are_weights_given="label_weight" in config.model_fields_set,
        scores=facts_of(task.name)["scores"],
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
    np.testing.assert_array_equal(control.scores, seen.seen.scores)


def numbers(*, noise):
    """Return items whose three numbers are sums of what is seen, those of train with noise."""
    known = data()
    weights = np.random.default_rng(7).standard_normal((WIDTH, 3)).astype(np.float32)
    parts = {}
    for name in ("train", "validation", "test"):
        split = getattr(known, name)
        exact = split.x[:, 0] @ weights
        off = noise * np.random.default_rng(8).standard_normal(exact.shape)
        parts[name] = Split(x=split.x, y=exact + off * (name == "train"))
    preprocessing = replace(known.preprocessing, classes=())
    task = registry.find("task", "regression").load()(standardize=False)
    read = task.read_targets(Parts(**parts, preprocessing=preprocessing), where="planted")
    made = replace(known, **dict(read.named()), task=task)
    return made, torch.from_numpy(weights)


@pytest.mark.parametrize(("sign", "verdict"), [(1, "helped"), (-1, "hurt")])
def test_a_teacher_of_numbers_is_judged_by_what_its_student_explains(sign, verdict):
    known, weights = numbers(noise=40.0)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(WIDTH, 3, bias=False))
    with torch.no_grad():
        teacher[1].weight.copy_(sign * weights.T)
    losses = [{"mse": {"weight": 1.0}}]
    found = effect(teacher, known, losses=losses, label_weight=0.05, classes=3)
    assert found.verdict == verdict, found.sentence
    assert "pp of R2" in found.sentence


def _nearest(x):
    with torch.no_grad():
        return Knows()(torch.from_numpy(x)).argmax(dim=1).numpy()


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level("ERROR")
