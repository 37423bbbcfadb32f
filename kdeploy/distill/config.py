"""How a student learns: scheme, losses, weight of the labels, and how the training goes.

The keys of `distill:` and of `recover:` in a recipe, the flags of `kdeploy distill`, and what
`distill()` takes are the fields of this class. It is checked when it is made, and never again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from kdeploy import registry
from kdeploy.distill.default_weights import (
    DEFAULT_LABEL_WEIGHT,
    DEFAULT_LOSSES,
    usual_losses,
    with_all_weights,
)
from kdeploy.distill.loss_specs import Scheduled, checked_weight, resolved_loss
from kdeploy.distill.schedules import Schedule, schedule_of
from kdeploy.errors import RecipeError
from kdeploy.training.config import TrainingConfig
from kdeploy.units import parse_quantity


def _with_keys(given: Any) -> Any:
    """Return `{name: {}}` for a name, or a name whose keys are left out."""
    if isinstance(given, str):
        return {given: {}}
    if isinstance(given, Mapping):
        return {name: {} if keys is None else keys for name, keys in given.items()}
    return given


def _resolved(losses: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [resolved_loss(entry, "distill.losses") for entry in losses]


Named = Annotated[dict[str, dict[str, Any]], BeforeValidator(_with_keys)]
"""`{technique: {its parameters}}`, or the technique's name alone."""


class DistillConfig(TrainingConfig):
    """One distillation, all defaults filled in and all names known; the training's fields first."""

    scheme: Named = Field(default={"offline": {}}, description="who teaches", validate_default=True)
    losses: list[Named] = Field(
        default=list(DEFAULT_LOSSES),
        description="what is learned, e.g. `[{kd: {temperature: 4.0}}]`; left out: of classes and "
        "masks `dist`, of two classes `kd`, beside labels of weight 1; else the task's own loss",
        validate_default=True,
    )
    label_weight: Scheduled | None = Field(
        default=None,
        description="weight of the true labels' cross-entropy; null: 1, beside losses on outputs "
        "whose weights are given 0.1",
    )
    wrong_weight: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="weight of the items that the teacher gets wrong, in losses on outputs; null: "
        "by how far it is ahead of the student, beside weights that are given 1",
    )
    cache_budget: str = Field(
        default="4GB", description="disk for the teacher's answers; 0 asks it live"
    )
    cache_top_k: int | None = Field(
        default=None,
        gt=0,
        description="keep only the largest logits and the others' sum; null: all",
    )
    cache_samples: int | None = Field(
        default=None,
        gt=0,
        le=1024,
        description="keep so many classes drawn from each answer in place of logits: right on "
        "average, for losses at temperature 1; null: none",
    )
    baseline: bool | None = Field(
        default=None,
        description="whether the teacher helps: true: the student is also trained without it; "
        "null: for a twelfth of the steps; false: nothing is compared",
    )

    @property
    def scheme_name(self) -> str:
        """Return the name of the scheme, a file of `distill/schemes`."""
        return next(iter(self.scheme))

    @property
    def scheme_parameters(self) -> dict[str, Any]:
        """Return the scheme's own parameters."""
        return self.scheme[self.scheme_name]

    @property
    def is_balanced(self) -> bool:
        """Whether the weights of all losses follow from their gradients: none is given."""
        return self.label_weight is None

    @property
    def are_weights_given(self) -> bool:
        """Whether somebody chose a weight: neither what is balanced nor the default has one."""
        usual = [
            _resolved(usual_losses(task, are_two=are_two))
            for task in registry.techniques("task")
            for are_two in (False, True)
        ]
        is_usual = self.label_weight == DEFAULT_LABEL_WEIGHT and self.losses in usual
        return not self.is_balanced and not is_usual

    def for_classes(self, num_classes: int, task: str) -> Self:
        """Return the configuration with the losses that are usual for so many classes.

        One that names other losses stays as it is.

        Args:
            num_classes: Of the data; 0 where answers are no classes.
            task: What the classes are of, by its name.
        """
        usual = usual_losses(task)
        if num_classes != 2 or not usual or self.losses != _resolved(usual):
            return self
        return self.model_copy(update={"losses": _resolved(usual_losses(task, are_two=True))})

    @property
    def weight_of_wrong(self) -> float | None:
        """Return the weight of what the teacher gets wrong; None: by its lead over the student."""
        return 1.0 if self.wrong_weight is None and self.are_weights_given else self.wrong_weight

    @property
    def labels(self) -> Schedule:
        """Return the weight of the labels."""
        return schedule_of(1.0 if self.label_weight is None else self.label_weight, where="labels")

    @property
    def cache_bytes(self) -> float:
        """Return what the teacher's answers may take on disk."""
        return parse_quantity(self.cache_budget)[0]

    def own(self) -> dict[str, Any]:
        """Return the options by name, without those of the training."""
        return {
            name: getattr(self, name)
            for name in type(self).model_fields
            if name not in TrainingConfig.model_fields
        }

    def section(self) -> dict[str, Any]:
        """Return the keys of a recipe's section, all of them."""
        return {**self.own(), **self.training()}

    def identity(self) -> dict[str, Any]:
        """Return what the student depends on, in the form that ids of artefacts are made of."""
        later = (
            "wrong_weight",
            "cache_samples",
        )  # than the first ids: left out where they say nothing
        silent = {"baseline", *(name for name in later if getattr(self, name) is None)}
        own = {name: value for name, value in self.own().items() if name not in silent}
        return {
            **own,
            "scheme": self.scheme_name,
            "scheme_parameters": self.scheme_parameters,
            "training": self.training_identity(),
        }

    @model_validator(mode="before")
    @classmethod
    def _compared_by_no_labels(cls, given: Any) -> Any:
        """Keep the last epoch where a scheme reads no labels: the best would be chosen by them."""
        if not isinstance(given, Mapping) or given.get("keep") is not None:
            return given
        scheme = given.get("scheme")
        name = next(iter(scheme), "") if isinstance(scheme, Mapping) else scheme
        if name not in registry.techniques("scheme"):
            return given  # refused elsewhere
        reads = registry.find("scheme", str(name)).facts.get("reads_labels", True)
        return given if reads else {**given, "keep": "last"}

    @model_validator(mode="after")
    def _keeps_in_one_way(self) -> DistillConfig:
        if self.cache_top_k is not None and self.cache_samples is not None:
            raise RecipeError(
                f"`cache_top_k` ({self.cache_top_k}) and `cache_samples` ({self.cache_samples}) are"
                " two ways to keep a teacher's answers",
                hint="leave one of them out",
            )
        return self

    @model_validator(mode="after")
    def _fits_its_scheme(self, info: ValidationInfo) -> DistillConfig:
        name = self.scheme_name
        for option in registry.find("scheme", name).facts.get("without", ()):
            if getattr(self, option):
                raise RecipeError(
                    f"{_where(info)}.{option}: it has no sense in the scheme `{name}`, which trains"
                    " networks from their beginning, or several at once",
                    hint=f"leave `{option}` out, or take the scheme `offline`",
                )
        return self

    @model_validator(mode="after")
    def _computes_with_parts(self, info: ValidationInfo) -> DistillConfig:
        where = f"{_where(info)}.fully_shard"
        if self.fully_shard and self.losses and self.is_balanced:
            raise RecipeError(
                f"{where}: losses without weights are scaled by the gradients of all of the "
                "student's weights, and each process has a part of them",
                hint="give the losses a `weight`, e.g. `losses: [{kd: {weight: 0.9}}]`",
            )
        writes = [name for loss in self.losses for name, own in loss.items() if _writes(own)]
        if self.fully_shard and writes:
            raise RecipeError(
                f"{where}: with `on_policy` of the loss `{writes[0]}` each process writes texts by "
                "itself, and has a part of the weights",
                hint="leave `on_policy` or `fully_shard` out",
            )
        return self

    @field_validator("scheme")
    @classmethod
    def _known_scheme(cls, given: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        where = f"{_where(info)}.scheme"
        name, own = registry.parse_one_key(given, where)
        known = registry.find("scheme", name, where=where)
        return {name: registry.validate(known.parameters, own, where=f"{where}.{name}")}

    @field_validator("losses")
    @classmethod
    def _known_losses(cls, given: list[Any], info: ValidationInfo) -> list[Any]:
        where = f"{_where(info)}.losses"
        return [resolved_loss(entry, f"{where}[{i}]") for i, entry in enumerate(given)]

    @model_validator(mode="before")
    @classmethod
    def _beside_a_weight(cls, given: Any) -> Any:
        return with_all_weights(given) if isinstance(given, Mapping) else given

    @field_validator("label_weight")
    @classmethod
    def _not_negative(cls, given: Any, info: ValidationInfo) -> Any:
        if given is None:
            return given
        checked_weight(given, where=f"{_where(info)}.label_weight")
        return given

    @field_validator("cache_budget")
    @classmethod
    def _an_amount(cls, given: str, info: ValidationInfo) -> str:
        where = f"{_where(info)}.cache_budget"
        value, unit = parse_quantity(given, where=where)
        if value < 0 or (unit != "B" and value):
            raise RecipeError(f"{where}: `{given}` is no amount of bytes", hint="e.g. `4GB`, or 0")
        return given


def _writes(loss: Any) -> bool:
    return isinstance(loss, Mapping) and bool(loss.get("on_policy"))


def _where(info: ValidationInfo) -> str:
    """Return what a message calls the section."""
    return str((info.context or {}).get("where", "distill"))
