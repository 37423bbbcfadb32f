"""Ahead: the same values in the same order, and no thread is left behind."""

import threading

import pytest

from kdeploy.training.prefetch import DEPTH, ahead


def threads():
    return [t for t in threading.enumerate() if t.name.startswith("kdeploy-ahead")]


def test_yields_all_in_order():
    assert list(ahead(lambda n: n * n, range(20))) == [n * n for n in range(20)]
    assert threads() == []


def test_makes_no_more_than_its_depth_before_it_is_asked():
    made = []
    series = ahead(lambda n: made.append(n) or n, range(20))
    assert next(series) == 0
    series.close()
    assert len(made) <= 1 + DEPTH
    assert threads() == []


def test_what_fails_is_raised_where_it_is_asked_for():
    series = ahead(lambda n: 1 // (2 - n), range(5))
    assert [next(series), next(series)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(series)
    assert threads() == []
