"""Ask a model some real items before any work: an answer that is no number is told at once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import torch

from kdeploy.data.contract import Dataset
from kdeploy.torch_module.finite import check_answers
from kdeploy.torch_module.named_inputs import call, tensors_of

if TYPE_CHECKING:
    from torch import nn

NUM_ITEMS = 256
"""Of each part, spread evenly over it."""
PIECE = 32
LONGEST_SECONDS = 3.0
"""A large model is asked fewer; training and measuring look at all."""


def check_real_items(model: nn.Module, data: Dataset, role: str) -> None:
    """Raise ModelError for an item to which the model, in its mode, answers NaN or infinity."""
    ends = time.monotonic() + LONGEST_SECONDS
    for part in ("validation", "test", "train"):
        split = getattr(data, part)
        chosen = np.unique(np.linspace(0, len(split) - 1, NUM_ITEMS).astype(int))
        piece = data.preprocessing.at_once(PIECE)
        for rows in np.array_split(chosen, range(piece, len(chosen), piece)) if len(split) else ():
            if time.monotonic() > ends:
                return
            x = tensors_of(data.preprocessing.apply(split.x[rows]))
            with torch.no_grad():
                logits = call(model, x)
            numbers = torch.from_numpy(rows)
            check_answers(model, x, logits, name=role, part=part, numbers=numbers)
