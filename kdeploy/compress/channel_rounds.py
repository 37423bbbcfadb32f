"""Prune channels round by round: find what goes together, rank it, choose, remove, report."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from kdeploy.compress.contract import CompressContext, StepTraining, Timing
from kdeploy.pruning.choice import Family, Kept, Ranking, Rules, balance, choose, choose_to_budget
from kdeploy.pruning.cost import cost_without
from kdeploy.pruning.coupling import LayerDim, PruningGroup, find_groups
from kdeploy.pruning.group_lasso import GroupLasso
from kdeploy.pruning.isomorphism import kinds_of
from kdeploy.pruning.latency import LOWEST, LatencyTrial, choose_to_latency
from kdeploy.pruning.removal import all_channels, remove_channels, remove_checked
from kdeploy.pruning.skipped_layers import skipped_layers
from kdeploy.pruning.tracing import traceable

_LOG = logging.getLogger(__name__)
TOLERANCE = 0.02  # of the target; a choice further off is reported
ROUNDING = 1e-2  # of the outputs' spread; sums in another order stay below 1e-4

Rate = Callable[
    [nn.Module, Sequence[PruningGroup]], Callable[[Sequence[PruningGroup]], list[float]]
]
"""From a traceable model and its groups, a function that scores groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """How much of the given model is kept."""

    what: Literal["channels", "macs", "parameters", "size", "latency"]
    fraction: float


class Pruning:
    """A copy of a model that loses channels, and what is told of it.

    Args:
        model: Is left as it is; all fractions are of it.
        context: Of the step.
        target: Of the last round.
        rules: What every choice keeps to.
        rate: How channels are scored, anew in each round.
        timing: What the context's stopwatch is told, for a latency to aim at.
        is_protected: Tells by a layer's name that its outputs must all stay.
        attention: What goes of multi-head attention, see `find_groups`.
    """

    def __init__(
        self,
        model: nn.Module,
        context: CompressContext,
        *,
        target: Target,
        rules: Rules,
        rate: Rate,
        timing: Timing,
        is_protected: Callable[[str], bool],
        attention: Literal["heads", "width"],
    ) -> None:
        self.pruned = copy.deepcopy(model)
        self._model, self._context, self._example = model, context, context.example
        self._target, self._rules, self._rate = target, rules, rate
        self._timing, self._is_protected, self._attention = timing, is_protected, attention
        # Of the first round: `max_ratio` counts from the given model, not from the last round's.
        self._sizes: Mapping[Family, int] = {}
        self._whole = self._cost()({}) if target.what != "channels" else 0.0

    def regularize(self, strength: float) -> None:
        """Train so that the channels that matter least end near zero."""
        with traceable(self.pruned):
            lasso = GroupLasso(self._find(), strength)
        self.train("sparse", lasso, keep="last")

    def train(self, name: str, *constraints: GroupLasso, keep: str | None = None) -> None:
        """Recover, as the step's `recover` says."""
        training = StepTraining(name=name, constraints=constraints, keep=keep)
        self._context.train(self.pruned, self._model, training)
        self.pruned.to(self._context.device)

    def prune(self, progress: float) -> None:
        """Remove channels; at progress 1 the target is reached, before in equal proportions."""
        is_last = progress == 1
        with traceable(self.pruned):
            found = self._find()
            score = self._rate(self.pruned, found)
            groups = balance(found, score(found))
            kinds = kinds_of(self.pruned, groups)
            ranking = Ranking(groups, score(groups), kinds=kinds, sizes=self._sizes)
            self._sizes = self._sizes or ranking.sizes
            kept = self._choose(ranking, self._target.fraction**progress, is_last=is_last)
            channels = all_channels(ranking.groups(kept))
            _warn_of_moved(remove_checked(self.pruned, channels, self._example))
        if is_last:
            rows = skipped_layers(
                self._model,
                self.pruned,
                self._example,
                found=found,
                ranked=groups,
                is_protected=self._is_protected,
                round_to=self._rules.round_to,
            )
            self._context.report["kept_whole"] = rows
            if not channels:
                _warn_of_nothing(rows)

    def _find(self) -> list[PruningGroup]:
        skipped: dict[str, str] = {}
        groups = find_groups(
            self.pruned,
            self._example,
            is_protected=self._is_protected,
            attention=self._attention,
            skipped=skipped,
        )
        if skipped:
            rows = [{"attention": module, "reason": reason} for module, reason in skipped.items()]
            self._context.report["attention_kept_whole"] = rows
        return groups

    def _choose(self, ranking: Ranking, fraction: float, *, is_last: bool) -> Kept:
        if self._target.what == "channels":
            at_first, left = sum(self._sizes.values()), len(ranking.order)
            ratio = 1 - fraction * at_first / left if left else 0.0
            # Rounded: a rounding error above 0 could take a channel.
            return choose(ranking, round(max(0.0, ratio), 12), self._rules)
        if self._target.what == "latency":
            return self._choose_to_latency(ranking, fraction, is_last=is_last)
        cost, whole = self._cost(), self._whole
        kept = choose_to_budget(
            ranking,
            self._rules,
            cost=lambda kept: cost(ranking.channels(kept)),
            budget=fraction * whole,
        )
        reached = cost(ranking.channels(kept)) / whole
        is_close = abs(reached - fraction) <= TOLERANCE * fraction
        self._tell(reached, fraction, is_good=is_close or not is_last)
        return kept

    def _choose_to_latency(self, ranking: Ranking, fraction: float, *, is_last: bool) -> Kept:
        cost = self._cost()
        # On the CPU: the stopwatch exports both, and measures where the runtime runs.
        original = copy.deepcopy(self._model).cpu().eval()
        example = self._example.cpu()

        def measure(kept: Kept, seconds: float) -> tuple[float, float]:
            candidate = copy.deepcopy(self.pruned)
            remove_channels(candidate, all_channels(ranking.groups(kept)))
            models = [original, candidate.cpu().eval()]
            timing = replace(self._timing, seconds=seconds)
            whole, own = self._context.stopwatch(models, example, timing)
            return whole, own

        best, trials = choose_to_latency(
            ranking,
            self._rules,
            cost=lambda kept: cost(ranking.channels(kept)) / self._whole,
            measure=measure,
            fraction=fraction,
        )
        report = self._context.report
        rows = [_row(trial, ranking, is_chosen=trial is best) for trial in trials]
        report["latency"] = [*report.get("latency", []), *rows]
        report["latency_reached"] = {
            "asked_ratio": fraction,
            "ratio": best.ratio,
            "latency_seconds": best.latency_seconds,
            "runtime": self._timing.runtime,
            "batch_size": self._timing.batch_size,
            "threads": self._timing.threads,
        }
        is_close = LOWEST * fraction <= best.ratio <= fraction
        self._tell(best.ratio, fraction, is_good=is_close or not is_last)
        return best.kept

    def _cost(self) -> Callable[[Mapping[LayerDim, int]], float]:
        """Return what the model, as it is now, costs without so many channels."""
        what = self._target.what
        assert what != "channels", "channels are counted, not weighed"
        with traceable(self.pruned):
            return cost_without(self.pruned, self._example, "macs" if what == "latency" else what)

    def _tell(self, reached: float, fraction: float, *, is_good: bool) -> None:
        _LOG.log(
            logging.INFO if is_good else logging.WARNING,
            "prune_channels keeps %.1f %% of the %s; asked for %.1f %% (round_to %d, max_ratio %g)",
            *(reached * 100, self._target.what, fraction * 100),
            *(self._rules.round_to, self._rules.max_ratio),
        )


def _row(trial: LatencyTrial, ranking: Ranking, *, is_chosen: bool) -> dict[str, Any]:
    pairs = zip(trial.kept, ranking.families, strict=True)
    return {
        "latency_ratio": trial.ratio,
        "latency_seconds": trial.latency_seconds,
        "whole_latency_seconds": trial.whole_latency_seconds,
        "macs_ratio": trial.cost,
        "channels_kept": sum(count * members[0].width for count, members in pairs),
        "is_confirmed": trial.is_confirmed,
        "is_chosen": is_chosen,
    }


def _warn_of_nothing(kept: Sequence[Mapping[str, str]]) -> None:
    """Say that nothing went, and of each reason the layers."""
    layers: dict[str, list[str]] = {}
    for row in kept:
        layers.setdefault(row["reason"], []).append(f"`{row['layer']}`")
    reasons = [
        f"{', '.join(names[:3])}{' and others' if len(names) > 3 else ''}: {reason}"
        for reason, names in layers.items()
    ]
    _LOG.warning(
        "prune_channels: no channel may go by these rules; nothing has changed. %s",
        "; ".join(reasons) or "The model has no linear or convolution layer",
    )


def _warn_of_moved(moved: float) -> None:
    if moved > ROUNDING:
        _LOG.warning(
            "prune_channels: an operation across channels (a layer norm, an attention) sees fewer "
            "of them: outputs moved by %.2g of their spread; recover by training",
            moved,
        )
