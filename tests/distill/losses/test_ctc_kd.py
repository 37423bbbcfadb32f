"""Frames of CTC: which of them count, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdeploy.distill.losses.ctc_kd import CtcKd
from kdeploy.errors import ModelError
from tests.distill.formulas import drawn, softmax

FRAMES, CHARACTERS = 9, 5


def value(student, teacher, **options):
    sides = [torch.as_tensor(z) for z in (student, teacher)]
    return CtcKd(*(z.shape for z in sides), None, **options)(*sides, None)


def silent(seed):
    """Return logits (2, frames, characters) whose every frame is blank, surely."""
    logits = drawn(seed, 2, FRAMES, CHARACTERS)[0] * 0.1
    logits[..., 0] += 8
    return logits


def divergences(student, teacher, temperature=1.0):
    rows = (z.reshape(-1, CHARACTERS) for z in (student, teacher))
    own, other = (softmax(z, temperature) for z in rows)
    return (other * np.log(other / own)).sum(1).reshape(2, FRAMES)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_where_all_frames_speak_it_is_their_mean(temperature):
    student, teacher = drawn(0, 2, FRAMES, CHARACTERS)
    expected = temperature**2 * divergences(student, teacher, temperature).mean()
    found = value(student, teacher, temperature=temperature, blank_above=1.0).item()
    assert found == pytest.approx(expected, rel=1e-4)


def test_frames_that_are_blank_to_both_count_only_beside_one_that_is_not():
    student, teacher = silent(1), silent(2)
    student[0, 2, 3] += 20
    teacher[1, 8, 1] += 20
    counted = np.zeros((2, FRAMES), bool)
    counted[0, 1:4] = counted[1, 7:] = True
    expected = divergences(student, teacher)[counted].mean()
    assert value(student, teacher).item() == pytest.approx(expected, rel=1e-4)


def test_where_nobody_says_anything_it_is_nothing():
    student = torch.from_numpy(silent(3)).requires_grad_()
    found = value(student, silent(4))
    found.backward()
    assert found.item() == 0
    assert not student.grad.any()


def test_the_blank_may_stand_anywhere():
    student, teacher = silent(5), silent(6)
    student[0, 4, 2] += 20
    moved = [np.roll(z, 2, axis=2) for z in (student, teacher)]
    expected = value(student, teacher).item()
    assert value(*moved, blank=2).item() == pytest.approx(expected, rel=1e-5)
    assert expected > 0


def test_other_frame_rates_are_refused():
    student, teacher = drawn(0, 2, FRAMES, CHARACTERS)
    with pytest.raises(ModelError, match="of one frame rate") as caught:
        value(student, teacher[:, ::2])
    assert "frames" in caught.value.hint
