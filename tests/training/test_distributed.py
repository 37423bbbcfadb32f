"""Two processes with half of each batch learn what one process learns."""

from __future__ import annotations

import pytest
import torch

from tests.training.pair import outcomes_of_two
from tests.training.trained_together import outcomes


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Return what both processes of a pair ended with."""
    folder = tmp_path_factory.mktemp("together")
    return outcomes_of_two("tests.training.trained_together", folder)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return outcomes(tmp_path_factory.mktemp("alone"), devices=1)


@pytest.mark.parametrize(
    "name",
    ["supervised", "updates", "recomputed", "accumulated", "distilled", "scheduled", "sparse"],
)
def test_two_processes_learn_what_one_learns(name, together, alone):
    numbers, weights = together[0][name]
    expected_numbers, expected_weights = alone[name]
    for epoch, expected in zip(numbers, expected_numbers, strict=True):
        assert epoch == pytest.approx(expected, abs=1e-5)
    assert numbers[-1][0] < numbers[0][0], "it learned"
    for key, value in weights.items():
        assert torch.allclose(value, expected_weights[key], rtol=0, atol=1e-5), key


def test_both_processes_end_in_the_same_weights(together):
    for name, (numbers, weights) in together[0].items():
        other_numbers, other_weights = together[1][name]
        assert numbers == other_numbers
        assert all(torch.equal(value, other_weights[key]) for key, value in weights.items())


def test_both_processes_find_the_checkpoint_of_the_first(together):
    for made in together:
        (numbers, weights), (found_numbers, found_weights) = made["stored"], made["found"]
        assert numbers == found_numbers
        assert all(torch.equal(value, found_weights[key]) for key, value in weights.items())
