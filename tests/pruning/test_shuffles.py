"""Shuffles against torch doing the same to the numbers themselves."""

import pytest
import torch

from kdeploy.pruning.shuffles import Shuffle


@pytest.mark.parametrize(("rows", "columns"), [(2, 6), (3, 4), (6, 2)])
def test_a_shuffle_renumbers_as_transposing_does(rows, columns):
    shuffle = Shuffle(node=None, rows=rows, columns=columns)
    moved = torch.arange(rows * columns).view(rows, columns).T.flatten().tolist()
    for after, before in enumerate(moved):
        assert shuffle.after(before) == [after]
        assert shuffle.before(after) == [before]


@pytest.mark.parametrize(("rows", "columns"), [(2, 6), (6, 2)])
def test_one_channel_of_each_group_goes_at_once(rows, columns):
    shuffle = Shuffle(node=None, rows=rows, columns=columns)
    partners = [shuffle.partner(after) for after in range(12)]
    sets = {first: [i for i in range(12) if partners[i] == first] for first in partners}
    assert [len(members) for members in sets.values()] == [2] * 6
    before = [sorted(shuffle.before(i)[0] for i in members) for members in sets.values()]
    # Two groups, side by side before the shuffle or interleaved: the same place in each.
    apart = 6 if rows == 2 else 1
    assert all(high - low == apart for low, high in before)
