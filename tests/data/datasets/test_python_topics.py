from __future__ import annotations

import numpy as np
import pytest

from kdeploy.data.contract import NOT_COUNTED
from kdeploy.data.datasets.python_topics import CHARACTERS, python_topics


@pytest.fixture(scope="module")
def parts():
    return python_topics(tokens=32)


def text(ids):
    return "".join(CHARACTERS[number] for number in ids)


def test_is_readable_text(parts):
    whole = text(parts.train.x.ravel())
    for phrase in ("statement", "expression", "exception", "\n   "):
        assert phrase in whole


def test_a_label_is_the_next_character(parts):
    x, y = parts.train.x, parts.train.y
    np.testing.assert_array_equal(y[0, :-1], x[0, 1:])
    assert y[0, -1] == x[1, 0]


def test_after_the_end_of_a_topic_nothing_counts(parts):
    is_left_out = parts.train.y == NOT_COUNTED
    assert 0 < is_left_out.mean() < 0.02
    assert not is_left_out[:, 0].any()
    # Only ever a tail of a piece.
    assert (np.diff(is_left_out.astype(int), axis=1) >= 0).all()


def test_about_a_tenth_is_for_testing(parts):
    share = len(parts.test) / (len(parts.test) + len(parts.train))
    assert 0.05 < share < 0.25


def test_names_every_class(parts):
    assert len(parts.preprocessing.classes) == parts.preprocessing.vocabulary == len(CHARACTERS)
    assert parts.preprocessing.classes[:3] == ("newline", "space", "!")


def test_what_is_tested_on_was_not_there_to_learn(parts):
    def pieces(split, step):
        ids = split.x.ravel()
        return {ids[at : at + 200].tobytes() for at in range(0, len(ids) - 200, step)}

    assert not pieces(parts.test, 50) & pieces(parts.train, 1)
