from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdeploy.data.split import stratified


@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(sum),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32),
)
def test_every_item_is_on_one_side_and_every_class_on_both(counts, fraction, seed):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    kept, held_out = stratified(labels, fraction=fraction, seed=seed)
    assert sorted([*kept, *held_out]) == list(range(len(labels)))
    for label, count in enumerate(counts):
        held = int((labels[held_out] == label).sum())
        if count >= 2:
            assert 1 <= held <= count - 1
            assert abs(held - fraction * count) <= 1
        else:
            assert held == 0


def test_the_seed_decides():
    labels = np.repeat(np.arange(4), 25)
    first, again, other = (stratified(labels, fraction=0.2, seed=s)[1] for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_rows_do_not_change_with_the_version_of_numpy():
    labels = np.repeat(np.arange(2), 6)
    # Written down once: the raw stream of PCG64 is guaranteed, so these must never change.
    assert stratified(labels, fraction=0.5, seed=3)[1].tolist() == PINNED


def test_each_item_is_held_out_about_equally_often():
    labels = np.repeat(np.arange(2), 20)
    times = sum(
        np.bincount(stratified(labels, fraction=0.25, seed=s)[1], minlength=40) for s in range(400)
    )
    assert times.mean() == pytest.approx(100)
    # Binomial(400, 0.25) has a standard deviation of 8.7.
    assert np.abs(times - 100).max() < 4.5 * 8.7


PINNED = [0, 1, 4, 7, 9, 10]


def test_labels_of_tokens_are_no_classes_of_items():
    labels = np.arange(200).reshape(20, 10) % 7
    kept, held_out = stratified(labels, fraction=0.25, seed=1)
    assert len(held_out) == 5
    assert sorted([*kept, *held_out]) == list(range(20))
