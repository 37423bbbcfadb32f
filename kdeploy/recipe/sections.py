"""The sections of a recipe, and the keys in them that belong to no function.

All other keys are the parameters of the functions that a section configures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from kdeploy.errors import FileMissing, RecipeError
from kdeploy.untrusted.named_path import named_path

STAGES = ("teacher", "distill", "compress", "export", "bench", "package")
"""Of a run, in order."""

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
    normalize: bool | None = Field(
        None,
        description="by mean and std of train, where the data bring none; null: if the teacher is "
        "trained here, while one with weights sees the items as they are",
    )


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
    weights: Path | None = Field(None, description="what it begins with; left out: as built")


def weights_of(
    section: TeacherSection | StudentSection, folder: Path, where: str, without: str
) -> Path | None:
    """Return the file of weights that a section names, None where it names none.

    Args:
        section: Of a model.
        folder: Where relative paths start.
        where: What the section is called.
        without: What happens without weights, for the hint.

    Raises:
        FileMissing: there is no such file.
    """
    weights = section.weights and named_path(section.weights, folder, where=f"{where}.weights")
    if weights is not None and not weights.is_file():
        raise FileMissing(
            f"{where}.weights: there is no file {weights}",
            hint=f"relative paths start at the recipe; leave `weights` out {without}",
        )
    return weights


class PackageSection(Section):
    """The bundle for the device."""

    budgets: list[str] = Field([], description="gates that the bundle proves on each machine")
    fold_preprocessing: bool = Field(
        False, description="the file takes bytes of pixels, and answers what the task reads"
    )
    fold_suppression: bool = Field(
        False, description="a folded detector leaves worse boxes of one object out"
    )
    emit: list[TechniqueEntry] = Field(
        [], description="what it brings for the place that it goes to: `triton`, `systemd`, ..."
    )


class SearchSection(Section):
    """What `kdeploy search` may change of the recipe, and what it looks for."""

    space: dict[str, dict[str, Any]] = Field(
        {}, description="{KEY.PATH: {choice: [...]}} or {range: [a, b], log: bool, step: n}"
    )
    objectives: list[str] = Field(
        ["accuracy.top1", "latency.p50", "size"],
        min_length=1,
        max_length=3,
        description="metrics, the better the better; `gates` are what has to hold",
    )
    sampler: Literal["tpe", "gp", "random"] = Field(
        "tpe", description="by what candidates are proposed"
    )
    seed: int = Field(0, ge=0, description="of the proposals")
    look: float = Field(
        0.125,
        gt=0,
        le=1,
        description="share of the epochs after which a candidate goes on or stops; 1: all go on",
    )
    elastic: bool = Field(
        False,
        description="one training for all sizes of the student: candidates are cut out of it, and "
        "finalists trained on",
    )
    finalists: int = Field(3, gt=0, description="candidates that are trained and measured again")
    seeds: int = Field(3, gt=0, description="under which each finalist is trained")


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
    dynamic: dict[str, Any] | None = None
    bench: dict[str, Any] = {}
    gates: list[str] = []
    package: dict[str, Any] | None = None
    search: dict[str, Any] | None = Field(
        None, description="for `kdeploy search`; `kdeploy run` does without"
    )
    written_in: Path | None = Field(
        None, description="of a resolved recipe: where it lay, to find files that moved with it"
    )

    def all_seeds(self) -> tuple[int, tuple[int, ...]]:
        """Return the seed of all, and all seeds of the student where the recipe lists them."""
        if self.seeds is None:
            return self.seed, ()
        if "seed" in self.model_fields_set and self.seed != self.seeds[0]:
            raise RecipeError(
                f"recipe: `seed` is {self.seed}, and `seeds` begin with {self.seeds[0]}",
                hint="leave `seed` out: data and teacher take the first of `seeds`",
            )
        twice = [seed for seed in self.seeds if self.seeds.count(seed) > 1]
        if twice:
            raise RecipeError(f"recipe: `seeds` hold {twice[0]} twice", hint="name each seed once")
        if self.student is None and len(self.seeds) > 1:
            raise RecipeError(
                "recipe: several `seeds` are for a student, and there is none",
                hint="write `seed: 0`, or add `student` and `distill`",
            )
        return self.seeds[0], tuple(self.seeds)
