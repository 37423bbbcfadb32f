"""A training loop as people write it by hand: AdamW, batches of 64, a cosine to zero."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

LEARNING_RATE = 3e-3
BATCH_SIZE = 64


def trained_by_hand(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epochs: int,
    seed: int,
    label_smoothing: float = 0.0,
) -> nn.Module:
    """Train the model in place on preprocessed items, all of them, and return it in eval mode."""
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    steps = math.ceil(len(x) / BATCH_SIZE)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(BATCH_SIZE):
            loss = functional.cross_entropy(
                model(x[rows]), y[rows], label_smoothing=label_smoothing
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falling.step()
    return model.eval()


@torch.inference_mode()
def share_right(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the fraction of preprocessed items that the model answers with their label."""
    answers = torch.cat([model(part).argmax(-1) for part in x.split(500)])
    return (answers == y).double().mean().item()
