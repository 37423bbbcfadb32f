"""Which positions count, and that the others do not."""

from __future__ import annotations

import pytest
import torch

from kdeploy.distill.contract import Batch
from kdeploy.distill.tokens import (
    check_heads,
    check_tokens,
    mean_over,
    real_rows,
    real_tokens,
    split_heads,
)
from kdeploy.errors import ModelError


def batch_of(ids):
    return Batch(x=torch.tensor(ids), labels=torch.tensor([0, 1]), rows=torch.arange(2))


def test_every_position_is_real_without_padding():
    real = real_tokens(torch.zeros(2, 3, 4), batch_of([[1, 0, 0], [1, 2, 0]]), None)
    assert real.tolist() == [[True] * 3] * 2


def test_the_id_of_padding_marks_what_is_not_real():
    real = real_tokens(torch.zeros(2, 3, 4), batch_of([[1, 0, 0], [1, 2, 0]]), 0)
    assert real.tolist() == [[True, False, False], [True, True, False]]


@pytest.mark.parametrize("shape", [(2, 4, 8), (2, 8)], ids=["another length", "vectors"])
def test_padding_needs_an_id_for_each_position(shape):
    with pytest.raises(ModelError, match="`padding` needs a token id for each position") as caught:
        real_tokens(torch.zeros(shape), batch_of([[1, 0, 0], [1, 2, 0]]), 0)
    assert "leave `padding` out" in caught.value.hint


def test_a_mean_does_not_see_what_is_not_real():
    values = torch.tensor([[1.0, float("nan")], [3.0, float("inf")]])
    real = torch.tensor([[True, False], [True, False]])
    assert mean_over(values, real).item() == 2


def test_a_mean_of_nothing_is_zero():
    assert mean_over(torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool)).item() == 0


def test_rows_are_the_logits_with_a_label():
    logits = torch.arange(12.0).reshape(2, 3, 2)
    labels = torch.tensor([[-100, 1, 0], [1, -100, -100]])
    assert real_rows(logits, labels).tolist() == [[2, 3], [4, 5], [6, 7]]


def test_items_of_a_classifier_are_rows_already():
    logits = torch.randn(4, 3)
    assert torch.equal(real_rows(logits, torch.tensor([0, -1, 2, -100])), logits)


def test_labels_of_a_mix_keep_all_rows():
    logits = torch.randn(3, 3)
    assert torch.equal(real_rows(logits, torch.eye(3)), logits)


def test_a_head_is_a_slice_of_the_width():
    features = torch.randn(2, 3, 8)
    heads = split_heads(features, 4)
    assert heads.shape == (2, 4, 3, 2)
    assert torch.equal(heads[:, 1], features[:, :, 2:4])


@pytest.mark.parametrize(
    "teacher", [(8, 4, 6, 6), (8, 5, 6), (8, 6)], ids=["maps", "another length", "vectors"]
)
def test_refuses_shapes_that_are_no_tokens_of_one_sequence(teacher):
    with pytest.raises(ModelError, match=r"some_loss compares features \(batch, tokens, width\)"):
        check_tokens((8, 4, 6), teacher, where="some_loss")


def test_heads_divide_the_width():
    check_heads(12, 4, where="some_loss", hint="")
    with pytest.raises(ModelError, match="some_loss: 5 heads do not divide the width 12") as caught:
        check_heads(12, 5, where="some_loss", hint="one of 1, 2, 3")
    assert caught.value.hint == "one of 1, 2, 3"
