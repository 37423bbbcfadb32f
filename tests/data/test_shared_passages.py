from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from kdeploy.data import shared_passages
from kdeploy.data.shared_passages import RUN, groups, passages, repeated


def words(seed, count):
    draws = np.random.default_rng(seed).integers(0, 26, (count, 6)) + ord("a")
    return [bytes(row.tolist()).decode() for row in draws]


def text(seed, count=400):
    return " ".join(words(seed, count))


def test_hashes_are_those_of_the_runs_of_letters_whatever_stands_between_them():
    one = words(0, 200)
    assert np.array_equal(passages(" ".join(one)), passages("\n\t".join(one)))
    # A run is found wherever it stands: but for those over the seam, the hashes are the text's own.
    inside = passages(text(1) + text(0) + text(2))
    assert np.isin(passages(text(0)), inside).all()
    assert not np.isin(passages(text(3)), inside).any()


def test_a_long_text_is_read_in_parts(monkeypatch):
    whole = passages(text(0))
    monkeypatch.setattr(shared_passages, "AT_ONCE", 100)
    assert np.array_equal(passages(text(0)), whole)


def test_one_of_eight_runs_is_kept():
    kept = len(passages(text(0, count=20_000)))
    assert kept == pytest.approx((120_000 - RUN) / 8, rel=0.05)


def test_a_short_text_is_known_as_a_whole():
    assert repeated(["to be or not"], ["to  be or\nnot", "that is"]) == 1.0
    assert repeated(["to be or not"], ["to be or not to be"]) == 0.0
    assert len(passages("")) == len(passages(" \n")) == 0


def test_says_how_much_of_a_text_is_known():
    assert repeated([text(0)], [text(1)]) == 0.0
    assert repeated([text(0)], []) == repeated([], [text(0)]) == 0.0
    assert repeated([text(0) + text(1)], [text(1), text(2)]) == pytest.approx(0.5, abs=0.1)


def test_texts_belong_together_that_hold_half_of_a_shorter_one():
    whole = text(0, count=1000)
    part = " ".join(words(0, 1000)[:150])  # all of it, a seventh of the other
    quoting = part[: len(part) // 5] + text(5)
    assert groups([text(1), whole, part, quoting, text(2)]) == [0, 1, 1, 3, 4]


def test_belonging_together_goes_from_one_to_the_next():
    written = words(0, 1200)
    chain = [" ".join(written[start : start + 400]) for start in range(0, 900, 150)]
    assert all(repeated([one], [other]) > 0.5 for one, other in pairwise(chain))
    assert groups(chain) == [0] * len(chain)
    assert groups(chain[::-1]) == [0] * len(chain)


def test_what_stands_everywhere_links_nothing():
    licence = text(99, count=100)
    assert groups([f"{licence} {text(seed, count=60)}" for seed in range(40)]) == list(range(40))


def test_any_text_has_hashes():
    assert groups(["\ud800", "日本語" * 200, "日本語" * 200]) == [0, 1, 1]
