"""The JSON Schema of a recipe, made from the same signatures that check it."""

from __future__ import annotations

from typing import Any, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, create_model

from kdeploy import registry
from kdeploy.bench.plan import BenchPlan
from kdeploy.distill.config import DistillConfig
from kdeploy.distill.loss_specs import around_loss
from kdeploy.recipe.dynamic import DynamicSection
from kdeploy.recipe.sections import (
    DataSection,
    PackageSection,
    RecipeSection,
    SearchSection,
    Section,
    StudentSection,
    TeacherSection,
)
from kdeploy.training.config import TrainingConfig


def json_schema() -> dict[str, Any]:
    """Return the schema; editors use it to complete and check recipes."""
    losses = _one_of("loss", around=True)
    learning = create_model(
        "Learning",
        __base__=DistillConfig,
        scheme=(str | dict[str, dict[str, Any] | None], "offline"),
        losses=(list[losses], []),  # type: ignore[valid-type]
    )
    teacher = create_model("Teacher", __base__=TeacherSection, train=(TrainingConfig, {}))
    emit: Any = list[_one_of("emitter")]  # type: ignore[misc]
    package = create_model("Package", __base__=PackageSection, emit=(emit, []))
    beside = {"recover": (learning | None, None), "max_drop": (str | None, None)}
    fields: dict[str, Any] = {
        "data": (_data_model(), ...),
        "task": (_one_of("task"), "classification"),
        "teacher": (teacher | str, ...),
        "student": (StudentSection | str | None, None),
        "distill": (learning | None, None),
        "compress": (list[_one_of("compressor", extra=beside)], []),  # type: ignore[misc]
        "export": (list[_one_of("exporter")], []),  # type: ignore[misc]
        "dynamic": (_dynamic_model() | None, None),
        "bench": (BenchPlan, {}),
        "package": (package | None, None),
        "search": (SearchSection | None, None),
    }
    return create_model("Recipe", __base__=RecipeSection, **fields).model_json_schema()


def _one_of(kind: str, *, around: bool = False, extra: dict[str, Any] | None = None) -> Any:
    """Return the union of `{technique: {its parameters}}` over all techniques of a kind.

    One whose parameters all have defaults may stand as its name alone.
    """
    models: list[Any] = []
    alone = []
    for name, technique in registry.techniques(kind).items():
        base = around_loss(technique) if around else Section
        with_extra = create_model(f"{kind}_{name}_extra", __base__=base, **(extra or {}))
        own = registry.model_of(technique.parameters, f"{kind}_{name}_parameters", base=with_extra)
        config = ConfigDict(extra="forbid", title=technique.summary)
        entry: dict[str, Any] = {name: (own | None, Field(description=technique.summary))}
        models.append(create_model(f"{kind}_{name}", __config__=config, **entry))
        if not any(field.is_required() for field in own.model_fields.values()):
            alone.append(name)
    models.append(Literal[tuple(alone)])
    return Union[tuple(models)]  # noqa: UP007 - a union of a list that is made here


def _dynamic_model() -> Any:
    """Return the union over kinds, each with its parameters or the first of them as a list."""
    models: list[Any] = []
    for name, technique in registry.techniques("dynamic").items():
        own = registry.model_of(technique.parameters, f"dynamic_{name}_parameters")
        entry: dict[str, Any] = {name: (list[str] | own, Field(description=technique.summary))}
        models.append(create_model(f"dynamic_{name}", __base__=DynamicSection, **entry))
    return Union[tuple(models)]  # noqa: UP007 - as above


def _data_model() -> Any:
    models: list[type[BaseModel]] = [
        registry.model_of(t.parameters, f"data_{name}", base=DataSection)
        for name, t in registry.techniques("dataset").items()
    ]
    return Union[(*models, DataSection, str)]
