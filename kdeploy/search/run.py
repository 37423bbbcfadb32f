"""Search: propose a batch, see what becomes of it, write it down, until the budget is spent.

`trials.jsonl` is the truth; whatever else is in the folder follows from it and from the store. A
batch is proposed from the trials before it alone, so that a search repeats, and one that was killed
goes on with the candidates that it would have had.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from kdeploy.data.load import load
from kdeploy.errors import InputError, ModelError
from kdeploy.pipeline.log import NullListener, RunListener
from kdeploy.recipe.read import to_yaml
from kdeploy.search.best import choose_best
from kdeploy.search.candidate import check_measurable
from kdeploy.search.evaluation import Candidate, Evaluation
from kdeploy.search.finalists import Finalists, judge_finalists
from kdeploy.search.front import front_trials
from kdeploy.search.report import write_search_report
from kdeploy.search.sampler import import_optuna, propose
from kdeploy.search.settings import RECIPE, Settings
from kdeploy.search.space import Point
from kdeploy.search.table import write_trials_csv
from kdeploy.search.trials import Trial, TrialLog, trial_log
from kdeploy.search.versions import alone, total_epochs
from kdeploy.search.workers import Workers, local_workers
from kdeploy.store.artifact import disk_error
from kdeploy.system.interruption import stop_if_asked
from kdeploy.system.machine_turns import training
from kdeploy.units import format_seconds

MOST_ATTEMPTS = 50
"""Proposals of one trial, until one is a recipe that was not tried."""
SAME_FAILURES = 3
"""In a row: a full disk is not forty bad candidates."""
PAGE_SECONDS = 30.0
"""Between two writings of the page while the search goes on."""
SAY_INFEASIBLE = 15
"""Trials of which none passes the gates, after which that is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How long to search: trials of this folder in all, and hours spent on them."""

    trials: int = 30
    hours: float | None = None
    workers: int = 1
    ray: str | None = None
    """Address of a Ray cluster that candidates are trained on; None: processes of this machine."""


@dataclass(slots=True, kw_only=True)
class SearchResult:
    """What a search came to."""

    settings: Settings
    trials: list[Trial]
    teacher: Mapping[str, float]
    finalists: Finalists = field(default_factory=Finalists)
    ended: str = ""
    """Why no further trial was made."""
    passed: bool = False
    """Whether there is a best recipe, and it passes its gates on the test part."""

    @property
    def front(self) -> list[Trial]:
        return front_trials(self.trials, self.settings.section.objectives)

    def summary(self) -> dict[str, Any]:
        """Return what scripts want to know."""
        states = [t.state for t in self.trials]
        return {
            "trials": len(self.trials),
            "states": {state: states.count(state) for state in sorted(set(states))},
            "front": [t.number for t in self.front],
            "best": self.finalists.best,
            "finalists": self.finalists.to_dict(),
            "teacher": dict(self.teacher),
            "seconds": round(sum(t.seconds for t in self.trials), 3),
            "saved_seconds": round(sum(t.saved_seconds for t in self.trials), 3),
            "ended": self.ended,
        }


def search(
    settings: Settings, budget: Budget, *, listener: RunListener | None = None
) -> SearchResult:
    """Search until the budget is spent, then measure the finalists again and pack the best.

    Raises:
        InputError: the recipe is wrong, or the folder holds trials of another search.
        Unavailable: another process searches in the folder; a library is missing; no Ray cluster
            answers.
    """
    listener = listener or NullListener()
    import_optuna()
    check_measurable(settings.recipe)
    try:
        with _workers(budget) as workers, trial_log(settings.out) as log:
            settings.keep()
            listener.message(_space_in_words(settings))
            return _search(settings, budget, log, workers, listener)
    except OSError as error:
        raise disk_error(error, settings.out) from error


def _search(
    settings: Settings, budget: Budget, log: TrialLog, workers: Workers, listener: RunListener
) -> SearchResult:
    teacher = _teacher(settings, workers, listener)
    result = SearchResult(settings=settings, trials=log.trials, teacher=teacher["values"])
    evaluation = Evaluation(
        settings=settings, workers=workers, teacher=teacher["values"], listener=listener
    )
    evaluation.known_seconds.update(teacher["steps"])
    items, recipes = len(load(settings.recipe.data).train), Recipes(settings=settings)
    written = time.monotonic()
    while not (ended := _spent(budget, log.trials)):
        stop_if_asked()
        points = next_batch(recipes, log.trials, budget.workers)
        if not points:
            ended = f"the space has no further candidates after {len(log.trials)}"
            break
        left = {n: p for n, p in points.items() if n < budget.trials}
        candidates = [
            Candidate(number=n, point=p, epochs=total_epochs(settings.space.recipe(p), items))
            for n, p in left.items()
        ]
        for trial in evaluation.batch(candidates, list(log.trials)):
            log.append(trial)
            listener.message(_line(trial, settings, budget, log.trials))
        _check_failures(log.trials)
        _say_infeasible(log.trials, listener)
        if time.monotonic() - written > PAGE_SECONDS:
            _write_tables(result)
            written = time.monotonic()
    result.ended = ended
    listener.message(f"search ended: {ended}")
    if result.front:
        result.finalists = judge_finalists(
            settings, workers, result.front, teacher["values"], listener
        )
        result.passed = choose_best(settings, result.finalists, listener)
    else:
        listener.message(_nothing_feasible(log.trials))
    _write_tables(result)
    return result


def _workers(budget: Budget) -> AbstractContextManager[Workers]:
    if budget.ray is None:
        return local_workers(budget.workers)
    from kdeploy.search.ray_workers import ray_workers

    return ray_workers(budget.ray)


def _teacher(settings: Settings, workers: Workers, listener: RunListener) -> Mapping[str, Any]:
    listener.status("the teacher is made and judged")
    with training():
        answer = workers.ask_alone(settings.request("teacher", settings.space.start()))
    if answer.error:
        raise ModelError(
            f"the teacher cannot be searched for: {answer.error}",
            hint="`kdeploy run` of the same recipe says more",
        )
    values = answer.reply["values"]
    if settings.main not in values:
        raise ModelError(
            f"{settings.main} of the teacher was not measured, and candidates are judged by it",
            hint="name an objective of the task, and data whose validation part has labels",
        )
    listener.message(
        f"teacher: {settings.main} {values[settings.main]:.4g} ({answer.reply['part']})"
    )
    return answer.reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipes:
    """The recipes of points, each looked at once."""

    settings: Settings
    _sums: dict[str, str] = field(default_factory=dict)

    def identity(self, point: Point) -> str:
        """Return the checksum of a point's recipe: other points may be the same recipe.

        Raises:
            InputError: it is none.
        """
        key = json.dumps(point, sort_keys=True)
        if key not in self._sums:
            whole = to_yaml(alone(self.settings.space.recipe(point)))
            self._sums[key] = hashlib.sha256(whole.encode()).hexdigest()
        return self._sums[key]


def next_batch(recipes: Recipes, trials: list[Trial], workers: int) -> dict[int, Point]:
    """Return the points of the batch that is to be made, without those that are finished."""
    first = len(trials) // workers * workers
    history = trials[:first]
    known = {recipes.identity(t.parameters) for t in history}
    points: dict[int, Point] = {}
    for number in range(first, first + workers):
        point = _new_point(recipes, history, list(points.values()), known, number)
        if point is None:
            break
        known.add(recipes.identity(point))
        points[number] = point
    return {n: p for n, p in points.items() if n >= len(trials)}


def _new_point(
    recipes: Recipes, history: list[Trial], running: list[Point], known: set[str], number: int
) -> Point | None:
    """Return a point that is a recipe and was not tried; None where none was found."""
    settings = recipes.settings
    for attempt in range(MOST_ATTEMPTS):
        point = (
            settings.space.start()
            if number == 0 and attempt == 0
            else propose(
                settings.space.dimensions,
                settings.section,
                history,
                running,
                number=number,
                attempt=attempt,
            )
        )
        try:
            if recipes.identity(point) not in known:
                return point
        except InputError:  # an order of steps that cannot be costs nothing
            continue
    return None


def _spent(budget: Budget, trials: list[Trial]) -> str:
    seconds = sum(t.seconds for t in trials)
    if len(trials) >= budget.trials:
        return f"{len(trials)} of {budget.trials} trials are made"
    if budget.hours is not None and seconds >= budget.hours * 3600:
        return f"{format_seconds(seconds)} of {budget.hours:g} h are spent"
    return ""


def _check_failures(trials: list[Trial]) -> None:
    last = trials[-SAME_FAILURES:]
    are_alike = len({(t.state, t.reason) for t in last}) == 1
    if len(last) == SAME_FAILURES and are_alike and last[-1].state == "failed":
        raise ModelError(
            f"the last {SAME_FAILURES} trials failed alike: {last[-1].reason}",
            hint="mend that, and remove their lines from trials.jsonl: the same command goes on",
        )


def _write_tables(result: SearchResult) -> None:
    settings = result.settings
    write_trials_csv(settings.out / "trials.csv", result.trials, settings)
    write_search_report(
        settings.out / "report.html", result.trials, settings, result.teacher, result.finalists
    )


def _space_in_words(settings: Settings) -> str:
    keys = ", ".join(d.key for d in settings.space.dimensions)
    wanted = ", ".join(settings.section.objectives)
    return f"search over {keys} for {wanted}: {settings.out / RECIPE}"


def _line(trial: Trial, settings: Settings, budget: Budget, trials: list[Trial]) -> str:
    """Return what became of a trial, how large the front is, and how long the rest may take."""
    each = sum(t.seconds for t in trials) / len(trials)
    left = max(budget.trials - len(trials), 0) * each
    if budget.hours is not None:
        left = min(left, max(budget.hours * 3600 - each * len(trials), 0.0))
    front = len(front_trials(trials, settings.section.objectives))
    progress = f"front {front}, about {format_seconds(left)} left"
    shown = ", ".join(
        f"{m} {trial.values[m]:.4g}" for m in settings.section.objectives if m in trial.values
    )
    why = f": {trial.reason}" if trial.reason else ""
    took = f"{trial.state} in {format_seconds(trial.seconds)}"
    return f"trial {trial.number} {took}  {shown}{why}; {progress}"


def _say_infeasible(trials: list[Trial], listener: RunListener) -> None:
    if len(trials) == SAY_INFEASIBLE and not any(t.is_feasible for t in trials):
        listener.message(_nothing_feasible(trials))


def _nothing_feasible(trials: list[Trial]) -> str:
    """Return which gate is in the way, by how much, and which candidate is nearest."""
    judged = [t for t in trials if t.gates]
    if not judged:
        return "no candidate could be measured: see the reasons in trials.csv"
    nearest = min(judged, key=lambda t: sum(max(0.0, v) for v in t.gates.values()))
    counts = {
        gate: sum(t.gates.get(gate, 0.0) > 0 for t in judged)
        for gate in dict.fromkeys(g for t in judged for g in t.gates)
    }
    gate = max(counts, key=lambda g: counts[g])
    return (
        f"none of {len(judged)} candidates passes all gates; `{gate}` is missed by {counts[gate]}"
        f" of them; trial {nearest.number} is nearest: {nearest.reason}"
    )
