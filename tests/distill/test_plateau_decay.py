"""Adaptive weights fade when validation no longer gains, and a checkpoint knows how far."""

from __future__ import annotations

from kdeploy.distill.plateau_decay import PlateauDecay
from kdeploy.distill.schedules import schedule_of

ADAPTIVE = {"kd": {"adaptive": {"start": 0.9, "factor": 0.5, "patience": 2}}, "labels": 1.0}


def fading():
    return PlateauDecay({name: schedule_of(given, where=name) for name, given in ADAPTIVE.items()})


def factors(found, accuracies):
    seen = []
    for accuracy in accuracies:
        found.validated(accuracy)
        seen.append(found.factor("kd"))
    return seen


def test_fades_after_each_run_of_epochs_without_gain():
    accuracies = [0.5, 0.6, 0.6, 0.55, 0.7, 0.7, 0.7, 0.7, 0.7]
    assert factors(fading(), accuracies) == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]


def test_a_weight_that_is_not_adaptive_stays():
    found = fading()
    factors(found, [0.5] * 9)
    assert found.factor("labels") == 1.0


def test_goes_on_from_a_checkpoint():
    accuracies = [0.5, 0.5, 0.6, 0.5, 0.5, 0.5, 0.5]
    whole, first, second = fading(), fading(), fading()
    expected = factors(whole, accuracies)
    begun = factors(first, accuracies[:4])
    second.load_state_dict(first.state_dict())
    assert begun + factors(second, accuracies[4:]) == expected
