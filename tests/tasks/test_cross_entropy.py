from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from kdeploy.tasks.cross_entropy import entropy


def test_of_items_is_torchs():
    logits, labels = torch.randn(5, 4), torch.tensor([0, 3, 1, 1, 2])
    expected = functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert torch.equal(entropy(logits, labels, label_smoothing=0.1), expected)


def test_of_tokens_is_the_mean_over_those_that_count():
    logits = torch.randn(3, 4, 6)
    labels = torch.randint(6, (3, 4))
    labels[0, 1:] = labels[2, 3] = -100
    chosen = [(i, t) for i in range(3) for t in range(4) if labels[i, t] >= 0]
    values = [-functional.log_softmax(logits[i, t], 0)[labels[i, t]] for i, t in chosen]
    assert entropy(logits, labels) == pytest.approx(sum(values).item() / len(values), rel=1e-6)


def test_is_float32_whatever_the_network_computed_in():
    assert entropy(torch.randn(2, 3).bfloat16(), torch.tensor([0, 1])).dtype == torch.float32
