"""How a training goes: each option once, with its type, its range, its default and its meaning.

Recipes, the command line, Python and the training itself read them here; an option more is one
field here and the line that uses it.

What is left out is chosen for the model and the data when a training begins (`defaults.py`). But a
recipe that states its learning rate has chosen how it trains: what else it leaves out is as it was
before anything was chosen, see `BESIDE_A_RATE`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from kdeploy.errors import RecipeError

Optimizer: TypeAlias = Literal["sgd", "adamw"]
BESIDE_A_RATE: Mapping[str, Any] = {
    "epochs": 10,
    "batch_size": 128,
    "optimizer": "sgd",
    "weight_decay": 5e-4,
    "warmup_epochs": 0.0,
    "clip_norm": None,
    "keep": "best",
}
"""What goes with a learning rate that is given."""
YOUNGER = ("lora", "checkpoint_activations")
"""Options that ids of artefacts and checkpoints do without where they are not used."""
PLACEMENT = ("fully_shard",)
"""Options that say where tensors lie, not what comes out: no id and no checkpoint has them."""


class LoraConfig(BaseModel):
    """Which updates are trained in place of the weights, see `lora.py`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(default=8, gt=0, description="Of the update of a weight, a product B A.")
    alpha: float = Field(
        default=16.0, gt=0, description="The update is multiplied by `alpha / rank`."
    )
    targets: tuple[str, ...] = Field(
        default=(),
        description="Linear layers by name or pattern, e.g. `*.q_proj`; none: all but the head.",
    )


class TrainingConfig(BaseModel):
    """One training, checked: made once, and passed whole."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int | None = Field(
        default=None,
        ge=0,
        description="Passes over the training part; 0 only measures the model as it is; null: 10, "
        "of few items more.",
    )
    batch_size: int | None = Field(
        default=None,
        gt=0,
        description="Items to a step, of all processes together; null: by the number of items.",
    )
    accumulate: int = Field(
        default=1,
        gt=0,
        description="Parts that a step is cut into, one after another: less memory, and but for "
        "batch norm the same gradient.",
    )
    optimizer: Optimizer | None = Field(
        default=None,
        description="`sgd` (Nesterov momentum) or `adamw`; null: `adamw`, beside a rate `sgd`.",
    )
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="The highest of the schedule; null: found by a short test before the training. "
        "One that is given stands for a training without the other defaults that are chosen here.",
    )
    weight_decay: float | None = Field(
        default=None,
        ge=0,
        description="On all weights; adamw decouples it from the gradient; null: by the optimizer.",
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Of sgd; the first beta of adamw.")
    schedule: Literal["cosine", "one_cycle", "constant"] = Field(
        default="cosine",
        description="`cosine` falls to 0, `one_cycle` rises, then falls to 0, `constant` stays.",
    )
    warmup_epochs: float | None = Field(
        default=None,
        ge=0,
        description="Epochs of linear rise at the start; for `one_cycle` the length of its rise "
        "(0: three tenths of the training); null: a tenth of the training, beside a rate none.",
    )
    clip_norm: float | Literal["auto"] | None = Field(
        default="auto",
        description="Largest norm of all gradients together; null: not clipped; `auto`: 1, beside "
        "a rate not clipped.",
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
    lora: LoraConfig | None = Field(
        default=None,
        description="Train low-rank updates of the linear layers and nothing else, e.g. "
        "`{rank: 8, alpha: 16, targets: [PATTERN]}`; they are added to the weights in the end. "
        "null: all weights are trained.",
    )
    checkpoint_activations: bool = Field(
        default=False,
        description="Compute the activations of repeated blocks again in the backward pass: less "
        "memory, the same gradients, a forward pass more to a step.",
    )
    fully_shard: bool = Field(
        default=False,
        description="Divide weights, gradients and the optimizer's averages among the processes of "
        "`torchrun`, for a student that one device does not hold; the same result.",
    )
    keep: Literal["best", "last"] | None = Field(
        default=None,
        description="Weights of the epoch that is `best` on the validation part (of equals the "
        "later), or of the `last`; null: `last`, beside a rate or a constant schedule `best`, but "
        "`last` where labels are not read.",
    )

    @model_validator(mode="before")
    @classmethod
    def _beside_a_rate(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or given.get("learning_rate") is None:
            return given
        own = {k: v for k, v in given.items() if v is not None and v != "auto"}
        return {**given, **{k: own.get(k, v) for k, v in BESIDE_A_RATE.items()}}

    @model_validator(mode="after")
    def _is_computed_in_one_way(self) -> TrainingConfig:
        why = {
            "checkpoint_activations": "decides by itself what it computes again",
            "fully_shard": "holds all of its weights",
        }
        for name, says in why.items():
            if getattr(self, name) and self.compile == "on":
                raise RecipeError(
                    f"`compile: on` and `{name}` exclude each other: a compiled model {says}",
                    hint="leave one of them out",
                )
        return self

    @field_validator("clip_norm")
    @classmethod
    def _is_positive(cls, given: Any) -> Any:
        if isinstance(given, float) and not given > 0:
            raise ValueError("it is a number above 0, null or `auto`")
        return given

    @property
    def trains(self) -> bool:
        """Whether anything is learned."""
        return self.epochs != 0

    def training(self) -> dict[str, object]:
        """Return the options of the training by name, without those of whoever adds to them."""
        return self.model_dump(include=set(TrainingConfig.model_fields))

    def training_identity(self) -> dict[str, object]:
        """Return what the result depends on, in the form that ids of artefacts are made of."""
        known = {k: v for k, v in self.training().items() if k not in PLACEMENT}
        # Younger than the first ids: left out where they say nothing.
        return {k: v for k, v in known.items() if k not in YOUNGER or v}
