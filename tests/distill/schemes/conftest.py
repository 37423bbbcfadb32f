"""What tests of schemes share: a trained teacher, further models, a training that is killed."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from kdeploy.distill.config import DistillConfig
from kdeploy.distill.run import distill
from kdeploy.training.config import TrainingConfig
from kdeploy.training.fit import FitContext, NullCallback, Supervised, fit

KD = ({"kd": {}},)
QUICK = {"batch_size": 16, "learning_rate": 0.05, "precision": "fp32"}


class Killing(NullCallback):
    """A callback that ends the process, as far as the training can tell, after so many epochs."""

    def __init__(self, epochs):
        self.left = epochs

    def epoch_ended(self, record):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.fixture(scope="session")
def trained(tiny_model, tiny_data):
    """Return a function that makes a trained tiny network."""

    def make(*, seed=1, width=12, epochs=4):
        model = tiny_model(seed=seed, width=width)
        fit(Supervised(model), tiny_data, FitContext(), TrainingConfig(epochs=epochs, **QUICK))
        return model

    return make


@pytest.fixture(scope="session")
def teacher(trained):
    return trained()


@pytest.fixture
def same():
    """Return a function that says whether two models have the very same tensors."""

    def compare(one, two):
        pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
        return all(torch.equal(a, b) for a, b in pairs)

    return compare


@pytest.fixture
def learn(tiny_model, tiny_data, teacher):
    """Return a function that distils the same small student by a scheme; `built` are models."""

    def run(scheme, *, built=(), context=None, epochs=2, teacher=teacher, losses=KD, **parameters):
        return distill(
            tiny_model(seed=2, width=4),
            teacher,
            tiny_data,
            context or FitContext(seed=4),
            DistillConfig(
                scheme={scheme: parameters}, **{**QUICK, "epochs": epochs}, losses=losses
            ),
            build=lambda reference, seed: deepcopy(built[reference["build"]]),
        )

    return run


@pytest.fixture
def killed_and_resumed(learn, tmp_path):
    """Return a function that kills a scheme after so many epochs and then lets it end."""

    def run(scheme, after, **options):
        context = FitContext(seed=4, work=tmp_path, callback=Killing(after))
        with pytest.raises(KeyboardInterrupt):
            learn(scheme, context=context, **options)
        torch.rand(3)
        return learn(scheme, context=FitContext(seed=4, work=tmp_path), **options)

    return run
