"""Which keys of a space decided how good candidates were.

PED-ANOVA: Watanabe et al., IJCAI 2023, arXiv:2304.10255, as Optuna has it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from kdeploy.search.front import costs
from kdeploy.search.sampler import study_of
from kdeploy.search.settings import Settings
from kdeploy.search.trials import Trial

FEWEST = 8
"""Complete trials, below which chance decides."""


def importances(trials: Sequence[Trial], settings: Settings) -> dict[str, dict[str, float]]:
    """Return, by objective, the share of each key; nothing of few trials."""
    complete = [t for t in trials if t.state == "complete"]
    if len(complete) < FEWEST:
        return {}
    import optuna

    found = {}
    for place, metric in enumerate(settings.section.objectives):
        if len({costs(t.values, [metric]) for t in complete}) < 2:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of evaluators that are experimental to Optuna
            study = study_of(settings.space.dimensions, settings.section, complete)
            values = optuna.importance.get_param_importances(
                study, target=lambda trial, place=place: trial.values[place]
            )
        found[metric] = {key: round(value, 3) for key, value in values.items()}
    return found
