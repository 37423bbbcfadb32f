"""The sections of a recipe, and the keys in them that belong to no function.

All other keys are the parameters of the functions that a section configures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from kdeploy import registry
from kdeploy.units import parse_bound, parse_extents

STAGES = ("teacher", "distill", "compress", "export", "bench", "package")
"""Of a run, in order."""
DEFAULT_LOSSES: tuple[dict[str, Any], ...] = ({"kd": {}},)

Effort: TypeAlias = Literal["quick", "standard", "sustained"]
EFFORT_SECONDS: dict[Effort, float] = {"quick": 1.0, "standard": 10.0, "sustained": 600.0}
"""To look; to quote (MLPerf's testing default); to see what heat does (MLPerf's submissions)."""

Scheduled: TypeAlias = float | dict[str, dict[str, Any]]
"""A number, or a schedule of `kdeploy.distill.schedules`: `{linear: {start: 0.9, end: 0.1}}`."""


ONE_WORD: dict[str, str] = {"data": "name", "teacher": "build", "student": "build"}
"""Sections that may be one word, and the key that it is the value of: `data: digits`."""


def spelled_out(given: Any, section: str | None = None) -> Any:
    """Return what one word stands for; what is more than a word as it is.

    Args:
        given: The word.
        section: One of `ONE_WORD`; None: a technique's name, for `{name: {}}`.
    """
    if not isinstance(given, str):
        return given
    return {ONE_WORD[section]: given} if section else {given: {}}


def _or_word(section: str | None = None) -> BeforeValidator:
    return BeforeValidator(lambda given: spelled_out(given, section))


TechniqueEntry: TypeAlias = Annotated[dict[str, Any], _or_word()]


class Section(BaseModel):
    """A part of the recipe; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSection(Section):
    """What to learn from; further keys are the dataset's own parameters."""

    name: str = Field(description="a dataset of `kdeploy list dataset`, or `path.py:function`")
    validation_fraction: float = Field(0.1, gt=0, lt=1, description="part of train, by the seed")
    augment: list[str] = Field([], description="augmentations of training batches, in order")


class TeacherSection(Section):
    """The accurate model."""

    build: str = Field(description="a model reference, e.g. `build.py:resnet`, or an artefact")
    args: dict[str, Any] = Field({}, description="keyword arguments of the build function")
    weights: Path | None = Field(
        None, description="safetensors, or a checkpoint of torch.save; without it it is trained"
    )
    train: dict[str, Any] = Field({}, description="how it is trained: epochs, learning_rate, ...")
    mean: list[float] | None = Field(None, description="the teacher's own normalisation, if other")
    std: list[float] | None = Field(None, description="goes with `mean`")


class StudentSection(Section):
    """The small model."""

    build: str = Field(description="a model reference, e.g. `build.py:resnet`")
    args: dict[str, Any] = Field({}, description="keyword arguments of the build function")


class DistillSection(Section):
    """How a student learns; further keys are those of training."""

    scheme: str | dict[str, dict[str, Any] | None] = Field("offline", description="who teaches")
    losses: list[Annotated[dict[str, dict[str, Any] | None], _or_word()]] = Field(
        list(DEFAULT_LOSSES), description="what is learned: `[{kd: {temperature: 4.0}}]`"
    )
    label_weight: Scheduled = Field(0.1, description="weight of the true labels' cross-entropy")
    cache_budget: str = Field("4GB", description="disk for the teacher's answers; 0 asks it live")
    cache_top_k: int | None = Field(
        None, gt=0, description="keep only the largest logits and the others' sum; null: all"
    )
    baseline: bool = Field(False, description="also train the student without a teacher")


class BenchSection(Section):
    """What is measured."""

    runtimes: list[str] = Field(["onnxruntime_cpu"], min_length=1, description="where to run")
    batch_sizes: list[Annotated[int, Field(gt=0)]] = Field(
        [1], min_length=1, description="items in one call"
    )
    threads: list[Annotated[int, Field(gt=0)] | None] = Field(
        [None], min_length=1, description="null: all cores allowed"
    )
    scenarios: list[Literal["single_stream", "offline", "server"]] = Field(
        ["single_stream"], min_length=1, description="how requests come; see docs/benchmarking.md"
    )
    sizes: list[int | str] = Field(
        [], description='bring inputs to these heights and widths, or lengths: [128, "160x96"]'
    )
    accuracy: bool = Field(True, description="measure accuracy on each file in each runtime")
    effort: Effort = Field("quick", description="measure a cell for 1 s, 10 s or 600 s at least")
    minimum_seconds: float | None = Field(None, gt=0, description="in place of `effort`, s")
    minimum_count: int = Field(100, gt=0, description="and at least so many calls")
    latency_limit: str | None = Field(
        None, description="what the p99 of scenario `server` stays within, e.g. `15ms`"
    )
    memory_limit: str | None = Field(
        None, description="what scenario `offline` may hold, e.g. `512MB`; null: what is free"
    )
    timeout_seconds: float = Field(600.0, gt=0, description="give a cell up after, s")

    @property
    def seconds(self) -> float:
        """Return how long a cell is measured at least."""
        return self.minimum_seconds or EFFORT_SECONDS[self.effort]

    @property
    def latency_limit_seconds(self) -> float | None:
        limit = self.latency_limit
        return None if limit is None else parse_bound(limit, "s", where="bench.latency_limit")

    @property
    def memory_limit_bytes(self) -> int | None:
        limit = self.memory_limit
        return None if limit is None else int(parse_bound(limit, "B", where="bench.memory_limit"))

    @property
    def item_sizes(self) -> list[tuple[int, ...]]:
        """Return the sizes to measure at; () are the data as they are."""
        return [parse_extents(str(size), where="bench.sizes") for size in self.sizes] or [()]


class PackageSection(Section):
    """The bundle for the device."""

    budgets: list[str] = Field([], description="gates that the bundle proves on each machine")


class RecipeSection(Section):
    """The whole recipe."""

    name: str = "recipe"
    seed: int = Field(0, ge=0)
    seeds: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, min_length=1, description="distil once a seed, e.g. [0, 1, 2]; in place of `seed`"
    )
    data: Annotated[dict[str, Any], _or_word("data")]
    task: TechniqueEntry = Field(
        {"classification": {}},
        description="what targets and outputs mean: `segmentation`, `path.py:Task`, ...",
    )
    teacher: Annotated[dict[str, Any], _or_word("teacher")]
    student: Annotated[dict[str, Any] | None, _or_word("student")] = None
    distill: dict[str, Any] | None = None
    compress: list[TechniqueEntry] = []
    export: list[TechniqueEntry] = [{"onnx": {}}]
    bench: dict[str, Any] = {}
    gates: list[str] = []
    package: dict[str, Any] | None = None
    written_in: Path | None = Field(
        None, description="of a resolved recipe: where it lay, to find files that moved with it"
    )


class LogitLossSection(Section):
    """What every loss takes beside its own parameters."""

    weight: Scheduled = Field(1.0, description="factor of this loss in the sum")


class FeatureLossSection(LogitLossSection):
    """What a loss on features takes beside its own parameters."""

    layers: dict[str, str] = Field(description='pairs of modules: {"student.path": "teacher.path"}')


class ItemLossSection(LogitLossSection):
    """What a loss that compares items with each other takes beside its own parameters."""

    layers: Annotated[dict[str, str], Field(min_length=1)] | None = Field(
        None, description="pairs of modules, as for other losses; null: the classifiers' inputs"
    )


def distill_section_model(*, base: type[BaseModel] = DistillSection) -> type[BaseModel]:
    """Return the model of `distill:` and `recover:`: the section's keys and those of training."""
    training = registry.parameters_of("kdeploy.training.fit", "fit")
    return registry.model_of(training, base.__name__.removesuffix("Section"), base=base)


def around_loss(technique: registry.Technique) -> type[LogitLossSection]:
    """Return the model of the keys that a loss takes beside its own parameters."""
    if technique.facts.get("of_items"):
        return ItemLossSection
    is_on_logits = technique.facts.get("needs", "logits") == "logits"
    return LogitLossSection if is_on_logits else FeatureLossSection
