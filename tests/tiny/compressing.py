"""A trainer and a stopwatch for compressors: a few real steps, times from weights."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from kdeploy.sparsity.zeros import HeldZeros, sparse_weights
from kdeploy.torch_module.complexity import count_parameters

STEPS = 4
LEARNING_RATE = 1e-3


class Trainer:
    """Takes a few steps towards the teacher's answers, as the pipeline does at length."""

    def __init__(self, data):
        self.data = data
        self.names = []

    def __call__(self, model, teacher, training):
        self.names.append(training.name)
        x = torch.from_numpy(self.data.preprocessing.apply(self.data.train.x[:16]))
        # Held by the pipeline in every training after a sparse step.
        known = dict(model.named_parameters())
        zeros = HeldZeros([name for name in sparse_weights(teacher) if name in known])
        constraints = (zeros, *training.constraints)
        for constraint in constraints:
            assert constraint.fingerprint, "a constraint says what it does"
            constraint.begin(model)
        weights = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(weights, lr=LEARNING_RATE)
        model.train()
        for step in range(STEPS):
            with torch.no_grad():
                answers = teacher.eval()(x).softmax(-1)
            F.cross_entropy(model(x), answers).backward()
            optimizer.step()
            optimizer.zero_grad()
            for constraint in constraints:
                constraint.after_step((step + 1) / STEPS, LEARNING_RATE)
        model.eval()


def stopwatch(models, example, timing):
    """Return a microsecond a parameter."""
    return [1e-6 * count_parameters(model) for model in models]
