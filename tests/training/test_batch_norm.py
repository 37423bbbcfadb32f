"""Batch norm of several processes: put on and taken off without a trace."""

import torch
from torch import nn

from kdeploy.training.batch_norm import synchronized


def test_synchronized_is_undone_with_what_was_learned():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sequential(nn.BatchNorm2d(2)), nn.BatchNorm2d(2))
    before = list(model.modules())
    undo = synchronized(model)
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in model.modules()) == 2
    model[1][0].running_mean.fill_(3.0)
    with torch.no_grad():
        model[2].weight.fill_(5.0)
    model.eval()
    undo()
    assert all(a is b for a, b in zip(model.modules(), before, strict=True))
    assert model[1][0].running_mean.tolist() == [3.0, 3.0]
    assert model[2].weight.tolist() == [5.0, 5.0]
    assert not model[2].training
