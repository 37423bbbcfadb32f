from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from kdeploy.bench.next_tokens import (
    MOST_EXAMPLES,
    NEAR_TIE,
    TOKENS_BEFORE,
    NextTokenComparison,
    Windows,
)
from kdeploy.data.contract import NOT_COUNTED
from kdeploy.errors import ModelError
from kdeploy.tasks import class_logits

WINDOWS, TOKENS, VOCABULARY = 3, 20, 7


def asked(first=0):
    """Return windows of counted-up ids, of which all tokens but the last count."""
    ids = np.arange(WINDOWS * TOKENS).reshape(WINDOWS, TOKENS)
    windows, places = np.nonzero(np.arange(TOKENS) < TOKENS - 1 + 0 * ids)
    labels = ids[windows, places] + 1
    return Windows(first=first, ids=ids, windows=windows, places=places, labels=labels)


def answers(seed=0, noise=1.0):
    """Return the logits of a teacher and of a file for the tokens that count."""
    rng = np.random.default_rng(seed)
    taught = rng.normal(0, 2, (WINDOWS * (TOKENS - 1), VOCABULARY)).astype(np.float32)
    return taught, taught + noise * rng.normal(size=taught.shape).astype(np.float32)


def compared(taught, own, where=None):
    found = NextTokenComparison()
    found.add(taught, own, where or asked())
    return found


def test_the_divergence_is_torchs():
    taught, own = answers()
    known, here = (functional.log_softmax(torch.tensor(x).double(), 1) for x in (taught, own))
    expected = functional.kl_div(here, known, log_target=True, reduction="none").sum(1)
    found = compared(taught, own).divergences
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-12)


def test_what_the_teacher_rules_out_adds_nothing_and_what_the_file_rules_out_is_infinite():
    logits = np.array([[0.0, 0.0, -np.inf]], np.float32)
    other = np.array([[0.0, 0.0, 0.0]], np.float32)
    one = Windows(first=0, ids=np.zeros((1, 1), int), windows=np.array([0]),
                  places=np.array([0]), labels=np.array([1]))  # fmt: skip
    assert compared(logits, other, one).divergences[0] == pytest.approx(np.log(1.5))
    assert compared(other, logits, one).divergences[0] == np.inf


def test_a_difference_is_a_near_tie_where_the_teacher_hardly_preferred_its_own():
    taught, own = answers()
    known = np.exp(taught.astype(float)) / np.exp(taught.astype(float)).sum(1, keepdims=True)
    differs = taught.argmax(1) != own.argmax(1)
    two = np.sort(known, axis=1)[:, -2:]
    near = two[:, 1] - two[:, 0] < NEAR_TIE
    found = compared(taught, own).found
    assert (found.num_tokens, found.num_differing) == (len(taught), differs.sum())
    assert 0 < found.num_near_ties == (differs & near).sum() < found.num_differing


def test_the_examples_are_where_the_teachers_choice_fell_most():
    taught, own = answers()
    known, here = (np.exp(class_logits.log_probabilities(x)) for x in (taught, own))
    rows = np.arange(len(taught))
    choice, own_choice = taught.argmax(1), own.argmax(1)
    falls = known[rows, choice] - here[rows, choice]
    expected = sorted(rows[choice != own_choice], key=lambda row: -falls[row])[:MOST_EXAMPLES]
    found = compared(taught, own).found.examples
    assert len(found) == MOST_EXAMPLES
    places = [divmod(int(row), TOKENS - 1) for row in expected]
    assert [(one.window, one.place) for one in found] == places
    first, row = found[0], expected[0]
    assert (first.teacher_token, first.token) == (choice[row], own_choice[row])
    assert first.teacher_probability == pytest.approx(known[row, choice[row]])
    assert first.teacher_probability_here == pytest.approx(here[row, choice[row]])
    assert first.probability == pytest.approx(here[row, own_choice[row]])


def test_an_example_has_the_ids_before_it_and_the_one_that_the_text_goes_on_with():
    for one in compared(*answers()).found.examples:
        last = one.window * TOKENS + one.place
        assert one.before == tuple(
            range(max(one.window * TOKENS, last - TOKENS_BEFORE + 1), last + 1)
        )
        assert one.label == last + 1


def test_windows_that_come_apart_are_judged_as_all_at_once(monkeypatch):
    (first, second), whole = (answers(seed) for seed in (0, 1)), NextTokenComparison()
    whole.add(*first, asked())
    whole.add(*second, asked(first=WINDOWS))
    monkeypatch.setattr(class_logits, "MOST_EXACT", 5 * VOCABULARY)
    apart = NextTokenComparison()
    apart.add(*first, asked())
    apart.add(*second, asked(first=WINDOWS))
    assert apart.found == whole.found
    np.testing.assert_array_equal(apart.divergences, whole.divergences)
    assert max(one.window for one in whole.found.examples) >= WINDOWS


def test_equal_answers_differ_nowhere():
    taught, _ = answers()
    found = compared(taught, taught)
    assert found.found.num_differing == 0
    assert found.found.examples == ()
    assert not found.divergences.any()


def test_rows_of_no_numbers_are_no_difference_and_have_no_divergence():
    taught, own = answers(noise=0.0)
    own[4] = np.nan
    own[7, 2] = np.inf
    found = compared(taught, own)
    assert found.found.num_differing == 0
    assert np.flatnonzero(np.isnan(found.divergences)).tolist() == [4, 7]


def test_answers_of_another_vocabulary_are_refused():
    taught, own = answers()
    with pytest.raises(ModelError, match=r"the teacher answers \[57, 7\], the file \[57, 6\]") as e:
        compared(taught, own[:, :6])
    assert "tokenizer" in e.value.hint


def test_nothing_is_compared_yet():
    assert len(NextTokenComparison().divergences) == 0
    assert NextTokenComparison().found.num_tokens == 0
    assert NOT_COUNTED < 0  # so that no id looks like it
