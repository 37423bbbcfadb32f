"""What a training does where its configuration leaves it open: chosen by the model and the data.

AdamW with a warm-up and clipped gradients, for every kind of network: of the settings that were
compared none else is near the best on all of them (`benchmarks/suites/distillation_defaults.py`).
On a processor recurrent networks and attention compute in float32: bfloat16 is not faster there,
and costs them a point of accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, NamedTuple

from torch import nn

from kdeploy.data.contract import Dataset
from kdeploy.training.config import Optimizer, TrainingConfig

Kind = Literal["recurrent", "attention", "other"]

RATES: Mapping[Optimizer, Mapping[Kind, float]] = {
    "adamw": {"recurrent": 7e-3, "attention": 6e-3, "other": 1e-2},
    "sgd": {"recurrent": 0.1, "attention": 0.03, "other": 0.1},
}
"""The usual ones, which a range test then moves."""
WEIGHT_DECAYS: Mapping[Optimizer, float] = {"adamw": 0.01, "sgd": 5e-4}
WARMUP_FRACTION = 0.1
CLIP_NORM = 1.0
EPOCHS = 10
FEWEST_STEPS = 300
"""A training of few items has more epochs, so that it makes so many steps, but at most this: """
MOST_EPOCHS = 60
BATCH_SIZES = ((4_000, 32), (16_000, 64))
"""Up to so many items, batches of so many; above them all `LARGEST_BATCH`."""
LARGEST_BATCH = 128
SMALL_PARAMETERS = 1_000_000
"""A network of fewer gains no time by bf16 on a processor, and loses about 1 pp."""


class Settled(TrainingConfig):
    """A training with nothing left open."""

    epochs: int
    batch_size: int
    optimizer: Optimizer
    learning_rate: float
    weight_decay: float
    warmup_epochs: float
    clip_norm: float | None
    keep: Literal["best", "last"]

    def chosen(self, config: TrainingConfig) -> dict[str, object]:
        """Return what a configuration left open and is now settled, by name."""
        open_to = {"clip_norm": "auto"}
        return {
            name: getattr(self, name)
            for name in Settled.__annotations__
            if getattr(config, name) == open_to.get(name)
        }


class Defaults(NamedTuple):
    """A settled training, and whether its rate is still to be looked for."""

    settled: Settled
    is_rate_sought: bool


def settle_on(
    data: Dataset, config: TrainingConfig, model: nn.Module, *, device: str = "cpu"
) -> Defaults:
    """Return `settle` for a model that is trained on the data."""
    # Here: what runs a model reads batches, whose contract names what is settled here.
    from kdeploy.training.predict import attends_on

    look = partial(attends_on, model, data)
    return settle(config, model, items=len(data.train), device=device, attends=look)


def settle(
    config: TrainingConfig,
    model: nn.Module,
    *,
    items: int,
    device: str = "cpu",
    attends: Callable[[], bool] = lambda: False,
) -> Defaults:
    """Return the configuration with all that it leaves open chosen.

    Args:
        config: As people gave it.
        model: What is trained.
        items: Of the training part.
        device: The type of that which trains.
        attends: Whether the model computes attention; asked where its classes do not say so.
    """
    if isinstance(config, Settled):
        return Defaults(settled=config, is_rate_sought=False)
    if config.learning_rate is not None:
        return Defaults(settled=Settled.model_validate(config.training()), is_rate_sought=False)
    kind = kind_of(model, attends)
    optimizer = config.optimizer or "adamw"
    epochs = num_epochs(config, items)
    decay, warmup, clip = config.weight_decay, config.warmup_epochs, config.clip_norm
    is_rising = config.schedule != "one_cycle"  # which rises by itself
    chosen: dict[str, object] = {
        "epochs": epochs,
        "batch_size": batch_size(config, items),
        "optimizer": optimizer,
        "learning_rate": RATES[optimizer][kind],
        "weight_decay": WEIGHT_DECAYS[optimizer] if decay is None else decay,
        "warmup_epochs": WARMUP_FRACTION * epochs * is_rising if warmup is None else warmup,
        "clip_norm": CLIP_NORM if clip == "auto" else clip,
        "keep": config.keep or ("best" if config.schedule == "constant" else "last"),
    }
    if config.precision == "auto" and device == "cpu" and (kind != "other" or _is_small(model)):
        chosen["precision"] = "fp32"
    settled = Settled.model_validate({**config.training(), **chosen})
    return Defaults(settled=settled, is_rate_sought=True)


def _is_small(model: nn.Module) -> bool:
    return sum(p.numel() for p in model.parameters()) < SMALL_PARAMETERS


def num_epochs(config: TrainingConfig, items: int) -> int:
    """Return how often the items of a training part are shown."""
    if config.epochs is not None:
        return config.epochs
    steps = max(math.ceil(items / batch_size(config, items)), 1)
    return min(max(EPOCHS, math.ceil(FEWEST_STEPS / steps)), MOST_EPOCHS)


def batch_size(config: TrainingConfig, items: int) -> int:
    """Return how many items of a training part make a step."""
    usual = next((size for most, size in BATCH_SIZES if items <= most), LARGEST_BATCH)
    return config.batch_size or usual


def kind_of(model: nn.Module, attends: Callable[[], bool] = lambda: False) -> Kind:
    """Return what of a network decides how it is trained.

    Args:
        model: Known by its classes where these have a telling name.
        attends: Looks at what it computes; asked where they have none.
    """
    modules = list(model.modules())
    if any(isinstance(m, nn.RNNBase | nn.RNNCellBase) for m in modules):
        return "recurrent"
    names = (type(m).__name__.lower() for m in modules)
    if any("attention" in name or "attn" in name for name in names) or attends():
        return "attention"
    return "other"
