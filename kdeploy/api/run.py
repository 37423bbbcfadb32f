"""`kdeploy.run`: a whole recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdeploy.api import session
from kdeploy.api.comparison import Comparison
from kdeploy.api.data import section_of, task_section
from kdeploy.api.distill import student_section, teacher_section
from kdeploy.api.models import File, Model
from kdeploy.errors import UnknownName
from kdeploy.pipeline.run import RunResult
from kdeploy.pipeline.run import run as run_recipe
from kdeploy.pipeline.rundir import place_of
from kdeploy.recipe.read import load, overridden
from kdeploy.recipe.resolve import parse
from kdeploy.recipe.sections import STAGES


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run came to."""

    result: RunResult

    @property
    def out(self) -> Path:
        """Return the folder of the run."""
        return self.result.out

    @property
    def teacher(self) -> Model:
        """Return the teacher."""
        return Model(artifact=self.result.teacher)

    @property
    def student(self) -> Model | None:
        """Return the student as distilled; None without one."""
        return None if self.result.student is None else Model(artifact=self.result.student)

    @property
    def models(self) -> list[Model]:
        """Return the teacher, the student, and the model after each compression step."""
        return [Model(artifact=artifact) for artifact in self.result.models]

    @property
    def files(self) -> list[File]:
        """Return what was exported."""
        return [File(artifact=e.file, path=place_of(e, self.out)) for e in self.result.exported]

    @property
    def comparison(self) -> Comparison | None:
        """Return the measurements beside the teacher's; None where nothing was measured."""
        result = self.result
        if result.comparison is None:
            return None
        return Comparison(drawn=result.comparison, records=result.records, verdicts=result.verdicts)

    @property
    def summary(self) -> dict[str, Any]:
        """Return what `summary.json` holds."""
        return self.result.summary

    @property
    def passed(self) -> bool:
        """Return whether all gates held, and all was exported and packaged."""
        return self.result.passed

    def _repr_html_(self) -> str:
        return "" if self.comparison is None else self.comparison._repr_html_()


def run(
    recipe: str | Path | Mapping[str, Any],
    *,
    out: str | Path = "runs/latest",
    overrides: Mapping[str, Any] | None = None,
    until: str | None = None,
    use_cache: bool = True,
) -> Run:
    """Run a recipe into a folder, going on where an earlier run of it stopped.

    Args:
        recipe: A YAML file, or its keys; of these `teacher`, `student` and `data` may be live.
        out: The folder of the run.
        overrides: Values by their path: `{"distill.epochs": 3}`.
        until: The last stage to run: teacher, distill, compress, export, bench or package.
        use_cache: Whether stored artefacts count.
    """
    if until is not None and until not in STAGES:
        raise UnknownName.among("stage", until, STAGES)
    changes = [f"{path}={json.dumps(value)}" for path, value in (overrides or {}).items()]
    if isinstance(recipe, Mapping):
        loaded = parse(overridden(_with_references(recipe), changes), folder=Path())
    else:
        loaded = load(Path(recipe), changes)
    result = run_recipe(
        loaded, Path(out), until=until, use_cache=use_cache, listener=session.listener()
    )
    return Run(result=result)


def _with_references(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys with references in place of live objects."""
    given = dict(recipe)
    if not isinstance(given.get("teacher"), str | Mapping | None):
        given["teacher"] = teacher_section(given["teacher"], None, {})
    if not isinstance(given.get("student"), str | Mapping | None):
        given["student"] = student_section(given["student"], None)
    if not isinstance(given.get("data"), str | Mapping | None):
        given = {**task_section(given["data"]), **given, "data": section_of(given["data"])}
    return given
