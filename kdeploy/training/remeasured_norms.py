"""Statistics of batch norm, measured again: what went through the layers before is not what does.

A network that is cut out of a larger one normalises by statistics of inputs that it never sees:
without this a slimmable network is right for half of the items that it could be right for.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdeploy.data.contract import Dataset
from kdeploy.torch_module.named_inputs import call, tensors_of

ITEMS = 2000
"""Of the training part: more change the statistics by less than a batch does in training."""
BATCH = 128


@torch.no_grad()
def remeasure_norms(model: nn.Module, data: Dataset, *, seed: int = 0) -> None:
    """Measure the statistics of all batch norms on training items, the mean over their batches.

    Args:
        model: On the CPU; is left in eval mode.
        data: Whose training part is drawn from, without augmentation.
        seed: Of which items.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
        norm.momentum = None  # the mean of all batches, not one that forgets
    count = len(data.train)
    rows = np.random.default_rng(seed).permutation(count)[:ITEMS]
    for start in range(0, len(rows), BATCH):
        chosen = np.sort(rows[start : start + BATCH])
        if len(chosen) > 1 or len(rows) == 1:
            call(model, tensors_of(data.preprocessing.apply(data.train.x[chosen])))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
