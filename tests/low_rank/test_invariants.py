"""What a factorised model holds, found on the model alone."""

from collections import OrderedDict

import pytest
from torch import nn

from kdeploy.low_rank.core import core_of
from kdeploy.low_rank.invariants import check_factors, factorised
from kdeploy.low_rank.pair import pair_of


def named(**layers):
    return nn.Sequential(OrderedDict(layers))


@pytest.mark.parametrize(
    ("factors", "has_fewer"),
    [
        (pair_of(nn.Linear(8, 8), form="channel").layers((3,)), True),
        (pair_of(nn.Linear(8, 8), form="channel").layers((4,)), False),
        (pair_of(nn.Conv2d(4, 4, 3), form="channel").layers((3,)), True),
        (pair_of(nn.Conv2d(4, 4, 3), form="spatial").layers((5,)), True),
        (pair_of(nn.Conv2d(4, 4, 3), form="spatial").layers((6,)), False),
        (core_of(nn.Conv1d(8, 8, 3), iterations=0).layers((4, 4)), True),
        (core_of(nn.Conv1d(8, 8, 3), iterations=0).layers((8, 4)), True),
        (core_of(nn.Conv1d(8, 8, 3), iterations=0).layers((7, 7)), False),
    ],
)
def test_factors_have_fewer_weights_than_the_layer(factors, has_fewer):
    model = nn.Sequential(factors, nn.ReLU())
    assert [name for name, _ in factorised(model)] == ["0"]
    if has_fewer:
        check_factors(model)
    else:
        with pytest.raises(AssertionError, match=r"`0` has .* weights in the place of"):
            check_factors(model)


def test_chains_of_other_people_are_not_judged():
    check_factors(nn.Sequential(nn.Linear(4, 9), nn.Linear(9, 4)))
    check_factors(named(reduce=nn.Sequential(nn.Linear(4, 9)), expand=nn.Linear(9, 4)))
