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
    task: str = "classification",
) -> nn.Module:
    """Train the model in place on preprocessed items, all of them, and return it in eval mode.

    It learns numbers by squared errors, all else by cross-entropy.
    """
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    steps = math.ceil(len(x) / BATCH_SIZE)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(BATCH_SIZE):
            answer = model(x[rows])
            if task == "regression":
                loss = functional.mse_loss(answer, y[rows])
            else:
                loss = functional.cross_entropy(answer, y[rows], label_smoothing=label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falling.step()
    return model.eval()
