"""Statistics of batch norm that are measured again, against numpy."""

import numpy as np
import torch
from torch import nn

from kdeploy.training import remeasured_norms
from kdeploy.training.remeasured_norms import remeasure_norms


def test_statistics_are_the_mean_over_batches_of_training_items(tiny_data, monkeypatch):
    monkeypatch.setattr(remeasured_norms, "BATCH", 32)
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(144, 4))
    remeasure_norms(model, tiny_data)
    x = tiny_data.preprocessing.apply(tiny_data.train.x)
    order = np.random.default_rng(0).permutation(len(x))
    batches = [x[np.sort(order[start : start + 32])] for start in range(0, len(x), 32)]
    means = [batch.mean() for batch in batches]
    variances = [batch.var(ddof=1) for batch in batches]
    np.testing.assert_allclose(model[0].running_mean.item(), np.mean(means), rtol=1e-4)
    np.testing.assert_allclose(model[0].running_var.item(), np.mean(variances), rtol=1e-4)
    assert model[0].momentum == 0.1
    assert not model[0].training


def test_nothing_but_statistics_changes(tiny_data, tiny_model):
    model = tiny_model(width=4)
    before = {name: value.clone() for name, value in model.named_parameters()}
    random = torch.get_rng_state()
    remeasure_norms(model, tiny_data)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert torch.equal(torch.get_rng_state(), random)
