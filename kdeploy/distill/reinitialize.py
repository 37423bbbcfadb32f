"""First weights anew: a second network of the same build, also of one that has been changed."""

from __future__ import annotations

import copy

import torch
from torch import nn

from kdeploy.errors import ModelError

# Of layers that initialise themselves; attention of torch.nn has the second.
RESETS = ("reset_parameters", "_reset_parameters")


def fresh_copy(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy whose layers are initialised anew; the model stays as it is.

    Each layer takes its own default initialisation, which is not always that of the build
    function; parameters that belong to no layer (a class token) keep their values.

    Raises:
        ModelError: there is no layer that could be initialised.
    """
    made = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        resets = [getattr(m, name) for m in made.modules() for name in RESETS if hasattr(m, name)]
        for reset in resets:
            reset()
    if not resets:
        raise ModelError(
            f"no layer of {type(model).__name__} can be initialised anew",
            hint="name the further models with their build functions",
        )
    return made
