"""Propose the next candidate from those that are finished.

The study is rebuilt for every proposal, with a sampler seeded by the trial's number: what is
proposed follows from the trials before it and from nothing else, so that a search that was killed
goes on as if it had not been. TPE: Bergstra et al., NeurIPS 2011; of several objectives Ozaki et
al., GECCO 2020. GP: Bayesian optimisation by expected hypervolume improvement.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdeploy.errors import MissingDependency
from kdeploy.measurement import METRICS
from kdeploy.recipe.sections import SearchSection
from kdeploy.search.space import Choice, Dimension, Point, Range
from kdeploy.search.trials import Trial

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial

STARTUP = 10
"""Proposals at random before a model of the space is made."""
ATTEMPTS = 1000  # seeds of one trial


def propose(
    dimensions: Sequence[Dimension],
    section: SearchSection,
    finished: Sequence[Trial],
    running: Sequence[Point],
    *,
    number: int,
    attempt: int = 0,
) -> Point:
    """Return a point of the space.

    Args:
        dimensions: The space.
        section: The objectives, and by what to propose.
        finished: The trials to learn from.
        running: Points of the same batch, whose results nobody knows yet.
        number: Of the trial; the seed.
        attempt: Changes the seed where a proposal was no new candidate.
    """
    import_optuna()
    with warnings.catch_warnings():
        # Samplers that are experimental to Optuna are pinned by our own tests.
        warnings.simplefilter("ignore")
        sampler = _sampler(section.sampler, section.seed * 1_000_003 + number * ATTEMPTS + attempt)
        study = study_of(dimensions, section, finished, sampler)
        distributions = {d.key: _distribution(d) for d in dimensions}
        study.add_trials([_running(point, dimensions, distributions) for point in running])
        asked = study.ask(distributions)
    return {d.key: _value(d, asked.params[d.key]) for d in dimensions}


def study_of(
    dimensions: Sequence[Dimension],
    section: SearchSection,
    finished: Sequence[Trial],
    sampler: BaseSampler | None = None,
) -> Study:
    """Return a study in memory that knows the finished trials."""
    import optuna

    better = [METRICS[m].better for m in section.objectives]
    directions = ["maximize" if b == "higher" else "minimize" for b in better]
    study = optuna.create_study(directions=directions, sampler=sampler)
    distributions = {d.key: _distribution(d) for d in dimensions}
    known = [_frozen(t, section, finished, dimensions, distributions) for t in finished]
    study.add_trials([t for t in known if t is not None])
    return study


def import_optuna() -> None:
    """Import the sampler's library, and let it say nothing of studies in memory.

    Raises:
        MissingDependency: it is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError:
        raise MissingDependency.named("optuna", needed_for="kdeploy search") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _sampler(name: str, seed: int) -> BaseSampler:
    from optuna import samplers

    if name == "random":
        return samplers.RandomSampler(seed=seed)
    if name == "gp":
        return samplers.GPSampler(seed=seed, n_startup_trials=STARTUP)
    return samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)


def _distribution(dimension: Dimension) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(dimension, Choice):
        last = len(dimension.options) - 1
        if dimension.is_ordered:
            return IntDistribution(0, last)
        return CategoricalDistribution(list(range(last + 1)))
    if dimension.is_integer:
        low, high, step = int(dimension.low), int(dimension.high), int(dimension.step or 1)
        return IntDistribution(low, low + (high - low) // step * step, log=dimension.log, step=step)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def _options(dimension: Choice) -> list[Any]:
    return sorted(dimension.options) if dimension.is_ordered else list(dimension.options)


def _value(dimension: Dimension, internal: Any) -> Any:
    return _options(dimension)[internal] if isinstance(dimension, Choice) else internal


def _internal(dimension: Dimension, value: Any) -> Any:
    if isinstance(dimension, Range):
        return value
    texts = [json.dumps(option, sort_keys=True) for option in _options(dimension)]
    return texts.index(json.dumps(value, sort_keys=True))


def _parameters(point: Mapping[str, Any], dimensions: Sequence[Dimension]) -> dict[str, Any]:
    return {d.key: _internal(d, point[d.key]) for d in dimensions}


def _frozen(
    trial: Trial,
    section: SearchSection,
    finished: Sequence[Trial],
    dimensions: Sequence[Dimension],
    distributions: Mapping[str, BaseDistribution],
) -> FrozenTrial | None:
    """Return a trial as the study knows it; what failed says nothing of where to look."""
    import optuna

    if trial.state == "failed":
        return None
    values = [_known(trial, metric, finished) for metric in section.objectives]
    if not all(map(math.isfinite, values)):
        return None
    return optuna.create_trial(
        values=values,
        params=_parameters(trial.parameters, dimensions),
        distributions=dict(distributions),
        constraints=dict(trial.gates) or None,
    )


def _known(trial: Trial, metric: str, finished: Sequence[Trial]) -> float:
    """Return a value, for one that nobody knows the worst that was seen: it is not to be chosen."""
    if metric in trial.values:
        return trial.values[metric]
    seen = [t.values[metric] for t in finished if metric in t.values]
    if not seen:
        return 0.0
    return min(seen) if METRICS[metric].better == "higher" else max(seen)


def _running(
    point: Point, dimensions: Sequence[Dimension], distributions: Mapping[str, BaseDistribution]
) -> FrozenTrial:
    import optuna

    return optuna.create_trial(
        state=optuna.trial.TrialState.RUNNING,
        params=_parameters(point, dimensions),
        distributions=dict(distributions),
    )
