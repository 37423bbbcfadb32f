"""Measure files: latency, memory and accuracy of each, in each runtime, side by side.

Every model runs in a fresh process of its own in every configuration (runtime, batch size,
threads); with a baseline all models of a configuration take turns, and are one group. A group that
is finished is kept at once, so that a rerun goes on after it. What cannot run is a record with its
reason; raw samples are kept beside the records.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdeploy.bench.cache import Finished, GroupCache, ModelGroup, finished_now
from kdeploy.bench.model_under_test import Configuration, ModelUnderTest, Outcome
from kdeploy.bench.plan import GENERATE, Plan, Scenario
from kdeploy.bench.records import comparisons, measurements, proven, validated
from kdeploy.bench.rounds import measure_group
from kdeploy.bench.samples import keep
from kdeploy.bench.token_texts import differing_tokens
from kdeploy.data.load import load
from kdeploy.errors import UnknownName
from kdeploy.machine import allowed_cores
from kdeploy.measurement import Measurement
from kdeploy.runtimes.run import named, this_machine
from kdeploy.tasks.contract import Predictions, Task, classification, compares_tokens, task_of

__all__ = ["BenchInterrupted", "BenchResult", "ModelUnderTest", "bench"]

# Intervals are drawn over rounds: more of them find smaller differences, until a round has too few
# calls for a median, or is so short that waking up takes longer. Rounds of more than some seconds
# compare what the machine did long apart.
FEWEST_ROUNDS, MANY_ROUNDS = 8, 40
FEWEST_CALLS = 3
SHORTEST_SECONDS, LONGEST_SECONDS = 0.25, 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """Records, and for each pair with the baseline a ratio: how many times better it is."""

    measurements: list[Measurement]
    comparisons: list[dict[str, Any]]
    proofs: list[dict[str, Any]] = field(default_factory=list)
    """What each file ran as in each runtime, operator by operator; see `records.proven`."""
    next_tokens: list[dict[str, Any]] = field(default_factory=list)
    """Where each file prefers other next tokens than its teacher; see `token_texts`."""
    validation: list[Measurement] = field(default_factory=list)
    """What answers are worth on the validation part, where the plan asks for that: for choices."""


class BenchInterrupted(KeyboardInterrupt):
    """Ctrl-C: `result` is of the groups that were finished, `text` says how many."""

    def __init__(self, text: str, result: BenchResult) -> None:
        super().__init__(text)
        self.text, self.result = text, result


def bench(
    models: Sequence[ModelUnderTest],
    plan: Plan,
    *,
    baseline: str | None = None,
    out: Path,
    cache_folder: Path | None = None,
    no_cache: bool = False,
    watch: Callable[[str], None] = lambda text: None,
) -> BenchResult:
    """Measure all models in all configurations.

    Args:
        models: What to measure.
        plan: In which runtimes and how, on which data, and for how long.
        baseline: Label of the model that others are compared with.
        out: Folder for the raw samples.
        cache_folder: What is finished, which a later call does not measure again; None: none.
        no_cache: Measure all of it again.
        watch: Called with a line for people at every step.

    Raises:
        UnknownName: a baseline that does not exist.
        DataError: the data cannot be used.
        BenchInterrupted: Ctrl-C; what was finished is kept.
    """
    labels = {model.label for model in models}
    if baseline is not None and baseline not in labels:
        raise UnknownName.among("model", baseline, labels, where="the baseline")
    # Loaded here: what is wrong with it is the user's error, not that of each configuration.
    task = classification() if plan.data is None else task_of(load(plan.data))
    store = GroupCache(folder=cache_folder, plan=plan, machine=this_machine())
    configurations = list(_configurations(plan))
    groups = [
        group
        for configuration in configurations
        for group in _groups(models, *configuration, baseline, compares_tokens(task))
    ]
    finished: list[Finished] = []
    try:
        for group in groups:
            finished.append(_finished(group, store, no_cache=no_cache, watch=watch))
    except KeyboardInterrupt:
        text = f"{len(finished)} of {len(groups)} groups are measured and kept"
        raise BenchInterrupted(text, _result(finished, baseline, store, task)) from None
    keep([outcome for f in finished for outcome in f.outcomes], out / "samples")
    return _result(finished, baseline, store, task)


def _configurations(plan: Plan) -> Iterator[tuple[Configuration, bool]]:
    """Yield configurations, and whether accuracy is measured in them: once a runtime."""
    counts = dict.fromkeys(count or allowed_cores() for count in plan.threads)
    for name in plan.runtimes:
        swept = [
            swept
            for scenario in plan.scenarios
            for swept in itertools.product(
                [scenario],
                plan.prompt_sizes if scenario == GENERATE else plan.item_sizes,
                [1] if scenario == GENERATE else plan.batch_sizes,  # one text at a time
                counts,
            )
        ]
        for index, (scenario, size, batch_size, count) in enumerate(swept):
            configuration = Configuration(
                runtime=name, batch_size=batch_size, threads=count, scenario=scenario, size=size
            )
            yield configuration, plan.accuracy and index == 0


def _groups(
    models: Sequence[ModelUnderTest],
    configuration: Configuration,
    with_accuracy: bool,
    baseline: str | None,
    by_token: bool,
) -> Iterator[ModelGroup]:
    """Yield what is measured at one time: without a baseline no two are compared."""
    able = [model for model in models if _refusal(model, configuration) is None]
    is_compared = baseline in {model.label for model in able}
    alone = [s for s in models if s not in able or not is_compared]
    together = [able] if is_compared else []
    for members in [*([model] for model in alone), *together]:
        is_beside = members is able and len(able) > 1 and by_token and with_accuracy
        yield ModelGroup(
            models=members,
            configuration=configuration,
            with_accuracy=with_accuracy,
            teacher=baseline if is_beside else None,
        )


def _refusal(model: ModelUnderTest, configuration: Configuration) -> str | None:
    """Return why the runtime of the configuration is not even asked to open the file."""
    technique, _ = named(configuration.runtime)
    unavailable: str | None = technique.load().unavailable()
    if unavailable is None and model.format not in technique.facts["formats"]:
        formats = ", ".join(sorted(technique.facts["formats"]))
        return f"{configuration.runtime} opens {formats}, not {model.format}"
    return unavailable


def _finished(
    group: ModelGroup, store: GroupCache, *, no_cache: bool, watch: Callable[[str], None]
) -> Finished:
    """Return what came of a group, now or earlier."""
    first, configuration = group.models[0], group.configuration
    if (reason := _refusal(first, configuration)) is not None:
        return finished_now([Outcome(model=first, configuration=configuration, skipped=reason)])
    known = None if no_cache else store.get(group)
    if known is not None:
        return known
    plan = store.plan.model_copy(update={"rounds": rounds_of(store.plan, configuration.scenario)})
    outcomes = measure_group(
        group.models,
        configuration,
        plan,
        with_accuracy=group.with_accuracy,
        watch=watch,
        teacher=group.teacher,
    )
    finished = finished_now(outcomes)
    store.put(group, finished)
    return finished


def rounds_of(plan: Plan, scenario: Scenario) -> int:
    """Return how many turns each model takes: an even number, so that each is as often first."""
    seconds, count = plan.seconds, plan.minimum_count
    wanted = max(FEWEST_ROUNDS, seconds / LONGEST_SECONDS)
    # The largest batch is one that fits in a round, and a server does not take turns.
    if scenario == "single_stream":
        most = min(seconds / SHORTEST_SECONDS, count / FEWEST_CALLS, MANY_ROUNDS)
        wanted = max(wanted, int(most))
    return 2 * math.ceil(wanted / 2)


def _result(
    finished: Sequence[Finished], baseline: str | None, store: GroupCache, task: Task
) -> BenchResult:
    machine, data = store.machine, store.plan.data
    outcomes = [outcome for f in finished for outcome in f.outcomes]
    return BenchResult(
        measurements=[
            record
            for f in finished
            for o in f.outcomes
            for record in f.dated(
                measurements(
                    o,
                    machine,
                    reference_predictions=_reference_predictions(o, outcomes, baseline),
                    task=task,
                )
            )
        ],
        comparisons=[
            ratio
            for f in finished
            if baseline is not None
            for ratio in comparisons(f.outcomes, baseline=baseline)
        ],
        proofs=proven(outcomes),
        next_tokens=differing_tokens(outcomes, data) if data is not None else [],
        validation=[
            record
            for f in finished
            for o in f.outcomes
            for record in f.dated(
                validated(
                    o,
                    machine,
                    reference_predictions=_reference_predictions(
                        o, outcomes, baseline, "validation_predictions"
                    ),
                    task=task,
                )
            )
        ],
    )


def _reference_predictions(
    outcome: Outcome,
    outcomes: Sequence[Outcome],
    baseline: str | None,
    of: str = "predictions",
) -> Predictions | None:
    """Return the baseline's predictions, from the same runtime where it could run there."""
    found = [o for o in outcomes if o.model.label == baseline and getattr(o, of) is not None]
    found.sort(key=lambda o: o.configuration.runtime != outcome.configuration.runtime)
    return getattr(found[0], of) if found else None
