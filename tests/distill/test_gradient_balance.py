from __future__ import annotations

import pytest
import torch

from kdeploy.distill.gradient_balance import GradientBalance


def looked(scale, *, names=("kd",), band=(0.5, 2.0), steps=1):
    """Return a balance that saw losses of `scale` times the labels' gradient."""
    balance, x = GradientBalance(names, band), torch.tensor([3.0, 4.0], requires_grad=True)
    for _ in range(steps):
        values = {"labels": x.sum(), **{name: scale * x.sum() for name in names}}
        balance.look(values, [x])
    return {name: float(value) for name, value in balance.factors().items()}


@pytest.mark.parametrize(("scale", "factor"), [(0.01, 50.0), (1.0, 1.0), (1.9, 1.0), (100.0, 0.02)])
def test_a_loss_is_brought_into_the_band_and_left_alone_inside_of_it(scale, factor):
    assert looked(scale)["kd"] == pytest.approx(factor, rel=1e-5)


def test_several_losses_share_the_band():
    found = looked(10.0, names=("kd", "hints"))
    assert found == pytest.approx({"kd": 0.1, "hints": 0.1})


def test_before_the_first_look_and_without_gradients_all_is_as_it_was():
    assert GradientBalance(("kd",)).factors()["kd"] == 1
    assert looked(0.0)["kd"] == 1


def test_one_look_does_not_turn_it_over():
    balance, x = GradientBalance(("kd",)), torch.tensor([1.0], requires_grad=True)
    for scale in (1.0, 1.0, 100.0):
        balance.look({"labels": x.sum(), "kd": scale * x.sum()}, [x])
    ratio = 0.8 + 0.2 * 100
    assert float(balance.factors()["kd"]) == pytest.approx(2 / ratio)


def test_looks_often_at_first_and_then_now_and_then():
    due = [step for step in range(-1, 100) if GradientBalance.is_due(step)]
    assert due == [0, 4, 16, 64]
