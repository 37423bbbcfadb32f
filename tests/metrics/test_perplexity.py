from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from kdeploy.errors import DataError
from kdeploy.metrics.perplexity import perplexity


def test_of_a_uniform_guess_is_the_number_of_tokens():
    assert perplexity(np.log(np.full(40, 1 / 96))) == pytest.approx(96)


def test_of_certainty_is_one():
    assert perplexity(np.zeros(3)) == 1


def test_is_the_exponential_of_torchs_cross_entropy():
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 7), torch.randint(7, (50,))
    found = functional.log_softmax(logits, 1).gather(1, labels[:, None])[:, 0]
    expected = functional.cross_entropy(logits, labels).exp().item()
    assert perplexity(found.numpy()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("wrong", [np.zeros(0), np.zeros((3, 2))])
def test_refuses_what_is_not_a_number_a_token(wrong):
    with pytest.raises(DataError) as caught:
        perplexity(wrong)
    assert caught.value.hint
