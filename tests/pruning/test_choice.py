"""Choosing groups: balance over groups, rounding, limits, and the way to a budget."""

import itertools

import pytest

from kdeploy.pruning.choice import Ranking, Rules, balance, choose, choose_to_budget
from kdeploy.pruning.coupling import LayerDim, PruningGroup


def group(layer, *indices, **shares):
    return PruningGroup(channels={LayerDim(layer, "out"): indices}, shares=shares)


def chain(layer, count):
    return [group(layer, index) for index in range(count)]


@pytest.fixture
def two_layers():
    """Two layers of 16; the scores of `a` are 0, 2, 4 ... 30, those of `b` 1, 3, 5 ... 31."""
    return Ranking(
        [*chain("a", 16), *chain("b", 16)],
        [*map(float, range(0, 32, 2)), *map(float, range(1, 32, 2))],
    )


def gone(ranking, kept, layer):
    return [
        u.channels[LayerDim(layer, "out")][0]
        for u in ranking.groups(kept)
        if LayerDim(layer, "out") in u.channels
    ]


def test_the_least_important_go_first(two_layers):
    kept = choose(two_layers, 0.25, Rules())
    assert gone(two_layers, kept, "a") == gone(two_layers, kept, "b") == [0, 1, 2, 3]


def test_a_global_ranking_takes_from_where_it_hurts_least():
    ranking = Ranking([*chain("a", 8), *chain("b", 8)], [*[1.0] * 8, *[2.0] * 8])
    assert choose(ranking, 0.375, Rules(scope="global")) == [2, 8]
    assert choose(ranking, 0.375, Rules(scope="local")) == [5, 5]


def test_families_of_one_kind_are_ranked_together_and_lose_the_same_ratio_as_other_kinds():
    layers = {name: chain(name, 8) for name in "abcd"}
    groups = [group for members in layers.values() for group in members]
    scores = [number for first in (1.0, 2.0, 30.0, 4.0) for number in [first] * 8]
    kinds = {layers[name][0].family: kind for name, kind in zip("abc", "xxy", strict=True)}
    ranking = Ranking(groups, scores, kinds=kinds)
    kept = choose(ranking, 0.375, Rules(scope="isomorphic"))
    # a and b are of one kind: six of sixteen go, all from a. The others stand for themselves.
    by_layer = {
        family[0].family[0][0].layer: count
        for family, count in zip(ranking.families, kept, strict=True)
    }
    assert by_layer == {"a": 2, "b": 8, "c": 5, "d": 5}


def test_the_limit_is_of_what_a_layer_had_at_first():
    groups = chain("a", 8)
    ranking = Ranking(groups, [1.0] * 8, sizes={groups[0].family: 16})
    assert choose(ranking, 1.0, Rules(max_ratio=0.75)) == [4]
    assert ranking.sizes == {groups[0].family: 16}


def test_no_layer_loses_all_or_more_than_its_limit(two_layers):
    assert choose(two_layers, 1.0, Rules()) == [1, 1]
    assert choose(two_layers, 1.0, Rules(max_ratio=0.75)) == [4, 4]


@pytest.mark.parametrize(
    ("ratio", "round_to", "kept"),
    [
        (0.1, 8, 16),
        (0.3, 8, 8),
        (0.4, 8, 8),
        (0.6, 8, 6),
        (0.3, 4, 12),
        (0.6, 4, 8),
        (0.9, 4, 2),
        (0.3, 5, 10),
        (0.5, 16, 8),
    ],
)
def test_layers_keep_a_multiple_or_fewer(two_layers, ratio, round_to, kept):
    assert choose(two_layers, ratio, Rules(scope="local", round_to=round_to)) == [kept, kept]


def test_rounding_counts_channels_not_units():
    pairs = [group("a", index, index + 16) for index in range(16)]
    ranking = Ranking(pairs, [float(index) for index in range(16)])
    assert choose(ranking, 0.2, Rules(round_to=8)) == [12]  # 24 channels
    triples = [group("a", *range(index, 48, 16)) for index in range(16)]
    ranking = Ranking(triples, [float(index) for index in range(16)])
    assert choose(ranking, 0.2, Rules(round_to=8)) == [13]  # no multiple of both: as it is


def test_lonely_units_are_put_together_rank_by_rank():
    left = [group("a", index, split=(1, 0)) for index in range(3)]
    right = [group("b", index, split=(0, 1)) for index in range(2)]
    even = group("c", 0, split=(1, 1))
    found = balance([*left, *right, even], [3.0, 1.0, 2.0, 5.0, 4.0, 0.0])
    assert [(dict(u.channels), u.shares["split"]) for u in found] == [
        ({LayerDim("c", "out"): (0,)}, (1, 1)),
        ({LayerDim("a", "out"): (1,), LayerDim("b", "out"): (1,)}, (1, 1)),
        ({LayerDim("a", "out"): (2,), LayerDim("b", "out"): (0,)}, (1, 1)),
    ]


def test_units_that_straddle_groups_stay():
    straddling = [group("a", 0, 1, 2, groups=(2, 1, 0)), group("a", 3, 4, 5, groups=(0, 1, 2))]
    assert balance(straddling, [0.0, 0.0]) == []


def test_two_places_are_balanced_at_once():
    corners = [
        group("a", index, one=one, two=two)
        for index, (one, two) in enumerate(
            [((1, 0), (1, 0)), ((1, 0), (0, 1)), ((0, 1), (1, 0)), ((0, 1), (0, 1))]
        )
    ]
    found = balance(corners, [0.0, 1.0, 2.0, 3.0])
    assert found
    assert all(len(set(u.shares[place])) == 1 for u in found for place in ("one", "two"))


def squares(ranking):
    """A cost: the product of the two layers' channels."""

    def cost(kept):
        lost = ranking.channels(kept)
        return (16 - lost[LayerDim("a", "out")]) * (16 - lost[LayerDim("b", "out")])

    return cost


@pytest.mark.parametrize("budget", [20, 64, 100, 128, 200])
@pytest.mark.parametrize("scope", ["global", "local"])
def test_a_budget_is_met_as_closely_as_single_channels_allow(two_layers, budget, scope):
    cost = squares(two_layers)
    kept = choose_to_budget(two_layers, Rules(scope=scope), cost=cost, budget=budget)
    off = abs(cost(kept) - budget)
    for layer, change in itertools.product((0, 1), (-1, 1)):
        other = [count + change * (number == layer) for number, count in enumerate(kept)]
        assert off <= 0.01 * budget or off <= abs(cost(other) - budget)
    assert off <= 8  # half of what one channel costs at most


def test_rounding_is_kept_on_the_way_to_a_budget(two_layers):
    rules = Rules(round_to=8)
    kept = choose_to_budget(two_layers, rules, cost=squares(two_layers), budget=128)
    assert sorted(kept) == [8, 16]


def test_a_budget_beyond_the_limits_ends_at_the_limits(two_layers):
    rules = Rules(max_ratio=0.5)
    assert choose_to_budget(two_layers, rules, cost=squares(two_layers), budget=1) == [8, 8]
