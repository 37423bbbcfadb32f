"""How a training goes: each option once, with its type, its range, its default and its meaning.

Recipes, the command line, Python and the training itself read them here; an option more is one
field here and the line that uses it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainingConfig(BaseModel):
    """One training, checked: made once, and passed whole."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(
        default=10,
        ge=0,
        description="Passes over the training part; 0 only measures the model as it is.",
    )
    batch_size: int = Field(
        default=128, gt=0, description="Items to a step, of all processes together."
    )
    accumulate: int = Field(
        default=1,
        gt=0,
        description="Parts that a step is cut into, one after another: less memory, and but for "
        "batch norm the same gradient.",
    )
    optimizer: Literal["sgd", "adamw"] = Field(
        default="sgd",
        description="`sgd` (Nesterov momentum) or `adamw` (needs a learning rate near 0.001).",
    )
    learning_rate: float = Field(default=0.1, gt=0, description="The highest of the schedule.")
    weight_decay: float = Field(
        default=5e-4, ge=0, description="On all weights; adamw decouples it from the gradient."
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Of sgd; the first beta of adamw.")
    schedule: Literal["cosine", "one_cycle", "constant"] = Field(
        default="cosine",
        description="`cosine` falls to 0, `one_cycle` rises, then falls to 0, `constant` stays.",
    )
    warmup_epochs: float = Field(
        default=0.0,
        ge=0,
        description="Epochs of linear rise at the start; for `one_cycle` the length of its rise "
        "(0: three tenths of the training).",
    )
    clip_norm: float | None = Field(
        default=None, gt=0, description="Largest norm of all gradients together; null: not clipped."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto",
        description="`bf16` is autocast with float32 weights; `auto` uses it where the hardware "
        "has it, and float32 in layers that bf16 lacks an operator for.",
    )
    channels_last: bool = Field(
        default=True,
        description="Memory layout of images that convolutions are fastest in; not where its "
        "kernels fail on the shapes to come.",
    )
    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Decay of a moving average of the weights that is validated and kept instead "
        "of the weights themselves, e.g. 0.999; null: no average.",
    )
    views: int = Field(
        default=0,
        ge=0,
        description="Augmented versions of each item, the same in every run, so that a teacher "
        "answers on each only once and its answers are kept; 8 is plenty. 0: every epoch draws "
        "anew.",
    )
    compile: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="`torch.compile` of the models; `auto` where the training is so long that it "
        "pays.",
    )
    keep: Literal["best", "last"] = Field(
        default="best",
        description="Weights of the epoch that is `best` on the validation part (of equals the "
        "later), or of the `last`.",
    )

    def training(self) -> dict[str, object]:
        """Return the options of the training by name, without those of whoever adds to them."""
        return {name: getattr(self, name) for name in TrainingConfig.model_fields}
