"""Average precision of single images, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from kdeploy.tasks.image_precision import image_precisions

NONE = (0, 0, 0, 0, -1)
LEFT, RIGHT = (0, 0, 10, 10, 0), (20, 0, 30, 10, 1)
CROWD = (40, 0, 60, 10, -2)  # of class 0


def precision(found, true):
    rows = np.array([found], np.float32).reshape(1, -1, 6)
    (value,) = image_precisions(rows, np.array([true], np.float32))
    return value


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([(*LEFT, 0.9), (*RIGHT, 0.8)], 1.0),
        ([(*LEFT, 0.9)], 0.5),
        ([(*LEFT, 0.9), (*LEFT, 0.8)], 0.5),  # the second finds nothing new
        ([(0, 0, 10, 10, 1, 0.9), (*RIGHT, 0.8)], 0.25),  # of another class: wrong, and first
        ([(*RIGHT, 0.8), (0, 0, 10, 10, 1, 0.1)], 0.5),  # wrong, and last: costs nothing
        ([(5, 0, 15, 10, 0, 0.9), (*RIGHT, 0.8)], 0.25),  # overlaps by a third
        ([(40, 0, 60, 10, 0, 0.9), (*LEFT, 0.8), (*RIGHT, 0.7)], 1.0),  # on the crowd
        ([(40, 0, 60, 10, 1, 0.9), (*LEFT, 0.8), (*RIGHT, 0.7)], 2 / 3),  # not of its class
        ([(*NONE, 0.0)], 0.0),
        ([], 0.0),
    ],
)
def test_it_is_the_area_under_precision_over_recall(found, expected):
    assert precision(found, [LEFT, RIGHT, CROWD, NONE]) == pytest.approx(expected)


def test_the_better_of_two_objects_is_taken_and_the_other_stays_free():
    near = [(0, 0, 10, 10, 0), (1, 0, 11, 10, 0)]
    found = [(1, 0, 11, 10, 0, 0.9), (0, 0, 10, 10, 0, 0.8)]
    assert precision(found, near) == 1.0


def test_images_without_objects_are_left_out():
    found = np.zeros((3, 1, 6), np.float32)
    true = np.array([[NONE], [LEFT], [CROWD]], np.float32)
    assert len(image_precisions(found, true)) == 1
