"""The search for a latency, on clocks that are steps and slopes of the widths."""

import itertools

import pytest

from kdeploy.pruning.choice import Ranking, Rules
from kdeploy.pruning.coupling import LayerDim, PruningGroup
from kdeploy.pruning.latency import (
    HIGHEST,
    LONG_SECONDS,
    LOWEST,
    MOST_CANDIDATES,
    choose_to_latency,
)

WIDTHS = {"a": 64, "b": 64, "c": 128, "d": 128}
WHOLE = sum(WIDTHS.values())


@pytest.fixture
def ranking():
    groups = [
        PruningGroup(channels={LayerDim(layer, "out"): (index,)}, shares={})
        for layer, width in WIDTHS.items()
        for index in range(width)
    ]
    return Ranking(groups, [group.channels[next(iter(group.channels))][0] for group in groups])


def search(ranking, clock, fraction=0.5, **rules):
    """Search with a clock that tells a latency from the widths that are left."""
    asked = []

    def measure(kept, seconds):
        asked.append((tuple(kept), seconds))
        return clock(list(WIDTHS.values())), clock(kept)

    best, trials = choose_to_latency(
        ranking,
        Rules(**{"round_to": 8, **rules}),
        cost=lambda kept: (sum(kept) / WHOLE) ** 2,
        measure=measure,
        fraction=fraction,
    )
    assert len(trials) == len(asked)
    return best, trials


def blocks(widths):
    """Take time by blocks of 32 channels, and something for the call."""
    return 0.01 + 0.001 * sum(-(-width // 32) for width in widths)


def slope(widths):
    return 1e-3 + 1e-5 * sum(widths) ** 2


@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.75, 0.9])
def test_a_smooth_latency_is_met_in_few_measurements(ranking, fraction):
    best, trials = search(ranking, slope, fraction)
    assert LOWEST * fraction <= best.ratio <= HIGHEST * fraction
    assert best.is_confirmed
    assert len(trials) <= 6


def test_steps_end_at_the_slowest_choice_that_is_fast_enough(ranking):
    best, trials = search(ranking, blocks, 0.73)
    # 15/22 and 16/22 are within; the second leaves no room for another run.
    assert best.ratio == pytest.approx(15 / 22)
    assert best.is_confirmed
    # Nothing leaves that room here: then 15/22, just within, is better than 14/22.
    best, trials = search(ranking, blocks, 0.693)
    assert best.ratio == pytest.approx(15 / 22)
    assert len({tuple(t.kept) for t in trials}) <= MOST_CANDIDATES


def test_latency_that_rises_where_widths_fall_is_survived(ranking):
    def bumpy(widths):
        # Widths that are no multiple of 32 are slow.
        return sum(width * (1.0 if width % 32 == 0 else 1.6) for width in widths)

    best, trials = search(ranking, bumpy, 0.5)
    within = [trial.ratio for trial in trials if trial.ratio <= 0.5]
    assert best.ratio <= 0.5
    assert best.ratio == max(within)


def test_the_confirmed_number_counts(ranking):
    """Short measurements flatter by 10 %: what they promised does not hold."""

    def measure(kept, seconds):
        return slope(list(WIDTHS.values())), slope(kept) * (1.0 if seconds == LONG_SECONDS else 0.9)

    best, trials = choose_to_latency(
        ranking,
        Rules(round_to=8),
        cost=lambda kept: (sum(kept) / WHOLE) ** 2,
        measure=measure,
        fraction=0.5,
    )
    assert best.is_confirmed
    assert best.ratio <= 0.5
    assert slope(best.kept) / slope(list(WIDTHS.values())) == pytest.approx(best.ratio)
    assert any(trial.ratio > HIGHEST * 0.5 for trial in trials if trial.is_confirmed)


def test_what_cannot_be_reached_is_the_fastest_of_all(ranking):
    best, trials = search(ranking, lambda widths: 1 + 1e-3 * sum(widths), 0.3, max_ratio=0.5)
    assert best.ratio > 0.3
    assert best.ratio == min(trial.ratio for trial in trials)
    assert best.kept == [width // 2 for width in WIDTHS.values()]


def test_one_choice_alone_is_measured_and_returned():
    ranking = Ranking([PruningGroup(channels={LayerDim("a", "out"): (0,)}, shares={})], [1.0])
    best, trials = choose_to_latency(
        ranking, Rules(), cost=lambda kept: 1.0, measure=lambda kept, s: (2.0, 2.0), fraction=0.5
    )
    assert best.ratio == 1.0
    assert [trial.kept for trial in trials] == [[1], [1]]


def test_noise_of_two_percent_does_not_lead_above_the_fraction(ranking):
    noise = itertools.cycle([1.02, 0.98, 0.99, 1.01, 1.0, 0.985, 1.015])
    best, trials = search(ranking, lambda widths: slope(widths) * next(noise), 0.5)
    assert best.ratio <= 0.5
    assert len({tuple(t.kept) for t in trials}) <= MOST_CANDIDATES
