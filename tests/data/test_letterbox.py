"""Where a picture lies in the input, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdeploy.data.letterbox import Placement

SIDES = st.integers(1, 5000)


@settings(max_examples=300)
@given(
    source=st.tuples(SIDES, SIDES), size=st.tuples(SIDES, SIDES), seed=st.integers(0, 9),
    letterbox=st.booleans(),
)  # fmt: skip
def test_the_way_back_is_exact_for_all_sizes(source, size, seed, letterbox):
    place = Placement.of(source, size, letterbox=letterbox)
    random = np.random.default_rng(seed)
    boxes = random.uniform(0, 1, (5, 4)) * ([source[1], source[0]] * 2)
    back = place.returned(place.placed(boxes))
    assert np.allclose(back, boxes, atol=1e-6)
    assert place.top >= 0
    assert place.top + place.size[0] <= size[0]
    assert place.left >= 0
    assert place.left + place.size[1] <= size[1]


@pytest.mark.parametrize(
    ("source", "size", "used", "left", "top"),
    [
        ((480, 640), (320, 320), (240, 320), 0, 40),
        ((640, 480), (320, 320), (320, 240), 40, 0),
        ((100, 100), (50, 70), (50, 50), 10, 0),
        ((3775, 1571), (640, 640), (640, 266), 187, 0),  # ultralytics PR 23967
        ((1, 4000), (32, 32), (1, 32), 0, 15),
    ],
)
def test_a_picture_keeps_its_shape_in_the_middle(source, size, used, left, top):
    place = Placement.of(source, size, letterbox=True)
    assert (place.size, place.left, place.top) == (used, left, top)


def test_boxes_and_points_are_moved_alike():
    place = Placement.of((50, 100), (40, 40), letterbox=True)
    assert place.placed(np.array([0, 0, 100, 50])).tolist() == [0, 10, 40, 30]
    assert place.placed(np.array([[100, 50]])).tolist() == [[40, 30]]
