"""Channel-wise distillation against numpy, and what tells it from pixel-wise distillation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from kdeploy.errors import ModelError
from kdeploy.registry import techniques
from tests.distill.formulas import drawn, softmax
from tests.distill.loss_calls import called

CWD = techniques("loss")["cwd"]
LABELS = torch.zeros(4, dtype=torch.int64)


def value(student, teacher, **options):
    return called(CWD, torch.as_tensor(student), torch.as_tensor(teacher), LABELS, **options).item()


def formula(student, teacher, temperature):
    """Return T^2 / (N C) times the sum over items, channels and positions of p_t log(p_t / p_s)."""
    own, other = (softmax(z.reshape(-1, z[0, 0].size), temperature) for z in (student, teacher))
    return temperature**2 * (other * np.log(other / own)).sum(1).mean()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_is_the_divergence_over_positions(temperature):
    student, teacher = drawn(0, 4, 3, 5, 6)
    expected = formula(student, teacher, temperature)
    assert value(student, teacher, temperature=temperature) == pytest.approx(expected, rel=1e-4)


def test_does_not_see_what_is_added_to_a_channel_but_what_is_added_to_a_pixel():
    student, teacher = drawn(1, 4, 3, 5, 6)
    random = np.random.default_rng(2)
    of_channel = random.normal(size=(4, 3, 1, 1)).astype(np.float32)
    of_pixel = random.normal(size=(4, 1, 5, 6)).astype(np.float32)
    plain = value(student, teacher)
    assert value(student + of_channel, teacher) == pytest.approx(plain, rel=1e-4)
    assert value(student + of_pixel, teacher) != pytest.approx(plain, rel=1e-2)


def test_the_order_of_positions_does_not_matter_where_it_is_one_for_both():
    student, teacher = (z.reshape(4, 3, 30) for z in drawn(3, 4, 3, 5, 6))
    order = np.random.default_rng(0).permutation(30)
    shuffled = (z[:, :, order].reshape(4, 3, 5, 6) for z in (student, teacher))
    plain = (z.reshape(4, 3, 5, 6) for z in (student, teacher))
    assert value(*shuffled) == pytest.approx(value(*plain), rel=1e-4)


def test_a_map_of_another_size_is_interpolated_and_of_another_width_projected():
    student, teacher = drawn(4, 4, 3, 4, 4)[0], drawn(5, 4, 3, 8, 8)[1]
    grown = functional.interpolate(
        torch.from_numpy(student), (8, 8), mode="bilinear", align_corners=False
    ).numpy()
    assert value(student, teacher) == pytest.approx(formula(grown, teacher, 1.0), rel=1e-4)
    wide = CWD.load()((4, 3, 8, 8), (4, 6, 8, 8), None)
    assert isinstance(wide.projection, nn.Conv2d)
    assert not list(CWD.load()((4, 3, 8, 8), (4, 3, 8, 8), None).parameters())


def test_refuses_vectors():
    with pytest.raises(ModelError, match=r"`cwd` compares feature maps .*\(4, 5\)") as caught:
        value(*drawn(0, 4, 5))
    assert "layers" in caught.value.hint
