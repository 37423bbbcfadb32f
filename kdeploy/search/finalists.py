"""The best candidates again: other seeds, a fresh timing in turns, and the test part, once.

Of many candidates the best looks better than it is: its value was high by luck too. So the choice
among finalists goes by seeds that the search has not seen and by times of its own; and the test
part says what the winner is worth, without having been asked for anybody else's sake.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, stdev
from typing import Any

from kdeploy.data.load import load
from kdeploy.errors import ModelError
from kdeploy.measurement import METRICS
from kdeploy.pipeline.log import RunListener
from kdeploy.pipeline.rundir import write_json
from kdeploy.search.constraints import missed, violations
from kdeploy.search.elastic import beginning_with
from kdeploy.search.evaluation import is_score
from kdeploy.search.front import costs
from kdeploy.search.settings import Settings
from kdeploy.search.trials import Trial
from kdeploy.search.workers import Answer, Workers
from kdeploy.system.machine_turns import timing, training

FINALISTS = "finalists.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalist:
    """A candidate that was made under several seeds and measured anew."""

    number: int
    searched: dict[str, float]
    """What the search saw."""
    scores: list[float]
    """On the validation part, in PyTorch, by seed; the first is the search's own."""
    values: dict[str, float]
    """Measured anew; the main objective is the mean of the seeds that the search has not seen."""
    gates: dict[str, float]
    test: dict[str, float]
    """Of the first seed's file, on the test part: reported, chosen by nothing."""
    error: str = ""
    begins_with: str | None = None
    """The weights that its student begins with; None: as built."""

    @property
    def is_feasible(self) -> bool:
        return not self.error and all(v <= 0 for v in self.gates.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalists:
    """All of them, and the number of the best; None where none passes the gates."""

    finalists: tuple[Finalist, ...] = ()
    best: int | None = None
    because: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def judge_finalists(
    settings: Settings,
    workers: Workers,
    front: Sequence[Trial],
    teacher: Mapping[str, float],
    listener: RunListener,
) -> Finalists:
    """Return the finalists of a front, found again where the same ones were judged before."""
    chosen = finalists_of(front, settings)
    asked = {"numbers": [t.number for t in chosen], "seeds": settings.section.seeds}
    file = settings.out / FINALISTS
    if file.is_file() and (kept := json.loads(file.read_text())).get("asked") == asked:
        found = [Finalist(**entry) for entry in kept["finalists"]]
    else:
        names = ", ".join(str(t.number) for t in chosen)
        listener.message(f"finalists: trials {names}, under {settings.section.seeds} seeds")
        found = _judged(settings, workers, chosen, teacher)
        write_json(file, {"asked": asked, "finalists": [asdict(f) for f in found]})
    return _with_best(found, settings)


def finalists_of(front: Sequence[Trial], settings: Settings) -> list[Trial]:
    """Return trials of the front: what the rule prefers, the most accurate, then between them."""
    objectives, most = settings.section.objectives, settings.section.finalists
    ordered = sorted(front, key=lambda t: costs(t.values, [settings.main]) or ())
    size = _items(settings)
    preferred = preferred_of({t.number: t.values for t in front}, settings, size)
    cheap = [m for m in objectives if not METRICS[m].is_judged][:1]
    fastest = min(front, key=lambda t: costs(t.values, cheap) or ()) if cheap else ordered[0]
    wanted = [t for t in front if t.number == preferred] + [ordered[0], fastest]
    step = max(1, len(ordered) // (most + 1))
    wanted += ordered[step::step] + ordered
    return list({t.number: t for t in wanted}.values())[:most]


def _judged(
    settings: Settings, workers: Workers, chosen: Sequence[Trial], teacher: Mapping[str, float]
) -> list[Finalist]:
    seeds = range(settings.recipe.seed, settings.recipe.seed + settings.section.seeds)
    begins = _begins_with(settings, workers, chosen)
    requests = [
        _under(settings, trial, seed, begins.get(trial.number))
        for trial in chosen
        for seed in seeds
    ]
    with training():
        answers = workers.ask_all(requests)
    files = [answers[i * len(seeds)] for i in range(len(chosen))]
    measured = _measured_anew(settings, workers, chosen, files)
    found = []
    for place, trial in enumerate(chosen):
        own = answers[place * len(seeds) : (place + 1) * len(seeds)]
        one = _finalist(settings, trial, own, measured.get(trial.number), teacher)
        found.append(replace(one, begins_with=begins.get(trial.number)))
    return found


def _begins_with(settings: Settings, workers: Workers, chosen: Sequence[Trial]) -> dict[int, str]:
    """Return by trial the weights that its student had inside the largest one."""
    if settings.shared is None:
        return {}
    requests = [settings.request("make", t.parameters, version="cut", share=1.0) for t in chosen]
    answers = workers.ask_all(requests)
    pairs = ((t.number, a.reply.get("begins_with")) for t, a in zip(chosen, answers, strict=True))
    return {number: str(weights) for number, weights in pairs if weights}


def _under(settings: Settings, trial: Trial, seed: int, begins_with: str | None) -> dict[str, Any]:
    """Return what is asked of a worker: the candidate under another seed of all that is trained.

    The division of the data stays: the teacher, and what items it has seen, do as well.
    """
    request = settings.request("make", trial.parameters, version="whole", share=1.0)
    recipe = beginning_with(request["recipe"], begins_with)
    return {**request, "recipe": recipe, "student_seed": seed}


def _measured_anew(
    settings: Settings, workers: Workers, chosen: Sequence[Trial], files: Sequence[Answer]
) -> dict[int, dict[str, Any]]:
    """Return fresh measurements of all finalists, in turns with each other and the teacher."""
    able = [(t, a) for t, a in zip(chosen, files, strict=True) if not a.error]
    if not able:
        return {}
    labelled = [{**a.reply["file"], "label": f"trial {t.number}"} for t, a in able]
    request = settings.request(
        "measure",
        able[0][0].parameters,
        files=[able[0][1].reply["teacher"], *labelled],
        parts=("validation", "test"),
        use_cache=False,
    )
    with timing():
        answer = workers.ask_alone(request)
    if answer.error:
        raise ModelError(
            f"the finalists cannot be measured: {answer.error}",
            hint="run the same command again: it goes on from here",
        )
    return {t.number: m for (t, _), m in zip(able, answer.reply["measured"], strict=True)}


def _finalist(
    settings: Settings,
    trial: Trial,
    answers: Sequence[Answer],
    measured: Mapping[str, Any] | None,
    teacher: Mapping[str, float],
) -> Finalist:
    errors = [a.error for a in answers if a.error]
    errors += [measured["reason"]] if measured and measured["reason"] else []
    if errors or measured is None:
        error = errors[0] if errors else "it was not measured"
        return Finalist(
            number=trial.number,
            searched=trial.values,
            scores=[],
            values={},
            gates={},
            test={},
            error=error,
        )
    scores = [float(a.reply["score"]) for a in answers if a.reply["score"] is not None]
    values = dict(measured["values"])
    # The file of the first seed was chosen for its value; those of the others were not.
    shift = fmean(scores[1:]) - scores[0] if len(scores) > 1 else 0.0
    if settings.main in values and is_score(settings.main):
        values[settings.main] += shift
    gates = violations(settings.recipe.gates, values, {**measured["baseline"], **teacher})
    return Finalist(
        number=trial.number,
        searched=trial.values,
        scores=scores,
        values=values,
        gates=gates,
        test=dict(measured["test"]),
    )


def _with_best(found: Sequence[Finalist], settings: Settings) -> Finalists:
    able = [f for f in found if f.is_feasible]
    if not able:
        gates = settings.recipe.gates
        reasons = [
            f"trial {f.number}: {f.error or '; '.join(missed(gates, f.values, f.gates))}"
            for f in found
        ]
        because = "no finalist passes all gates when measured again: " + "; ".join(reasons)
        return Finalists(finalists=tuple(found), because=because)
    values = {f.number: f.values for f in able}
    best = preferred_of(values, settings, _items(settings), _spread(able))
    return Finalists(finalists=tuple(found), best=best, because=_rule(settings))


def _rule(settings: Settings) -> str:
    cheap = next((m for m in settings.section.objectives if not METRICS[m].is_judged), None)
    if cheap is None:
        return f"the best in {settings.main}"
    if _gates_answers(settings):
        return f"the best in {cheap} of those that pass all gates"
    return f"the best in {cheap} within a standard error of the best {settings.main}"


def _gates_answers(settings: Settings) -> bool:
    return any(METRICS[g.metric].is_judged for g in settings.recipe.gates)


def preferred_of(
    values: Mapping[int, Mapping[str, float]],
    settings: Settings,
    items: int,
    spread: float = 0.0,
) -> int:
    """Return the number of the cheapest candidate that is as accurate as is asked for.

    Where no gate says how accurate, within one standard error of the best.

    Args:
        values: Of candidates that pass all gates, by number.
        settings: The objectives, in their order, and the gates.
        items: Of the validation part.
        spread: The standard error of a mean over seeds; 0 where there is one seed.
    """
    main = settings.main
    cheap = [m for m in settings.section.objectives if not METRICS[m].is_judged]
    numbers = {n: costs(own, [main]) for n, own in values.items()}
    known = {n: c[0] for n, c in numbers.items() if c is not None}
    best = min(known.values())
    error = _standard_error(best, items, spread) if METRICS[main].unit == "fraction" else spread
    limit = math.inf if _gates_answers(settings) else best + error
    if not cheap:
        return min(known, key=lambda n: known[n])
    able = [n for n in known if known[n] <= limit]
    return min(able, key=lambda n: costs(values[n], cheap) or ())


def _standard_error(error: float, items: int, spread: float) -> float:
    share = min(max(error, 1 / (items + 2)), 1 - 1 / (items + 2))
    return max(math.sqrt(share * (1 - share) / max(items, 1)), spread)


def _spread(found: Sequence[Finalist]) -> float:
    """Return the largest standard error of a mean over seeds."""
    return max(
        (stdev(f.scores) / math.sqrt(len(f.scores)) for f in found if len(f.scores) > 1),
        default=0.0,
    )


def _items(settings: Settings) -> int:
    return len(load(settings.recipe.data).validation)
