"""Put factors in the places of layers, where they are fewer and measured to be faster.

What `low_rank` and `tucker` share: which layers, at which ranks, judged by a stopwatch.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kdeploy.compress.contract import CompressContext, Timing, refuse_integers
from kdeploy.compress.low_rank_settings import LowRankSettings
from kdeploy.errors import ModelError
from kdeploy.low_rank.layer_sites import LayerSite, find_sites, put
from kdeploy.low_rank.ranks import Candidates, Factorisation, Ranks, RankTarget, choose
from kdeploy.torch_module.complexity import count_macs, count_parameters
from kdeploy.torch_module.input_gram import input_grams
from kdeploy.torch_module.layer_patterns import matching

_LOG = logging.getLogger(__name__)
ROUNDS = 3  # of choosing for a budget anew, without what was measured slower
NOISE = 0.03  # a latency that is lower by less than this fraction is not lower
TOLERANCE = 0.02  # of the budget; a result further above is reported
MOST_INPUTS = 8192  # of a layer whose second moments are taken: they are 256 MiB then

Make = Callable[[Any, Tensor | None], Factorisation]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyComparison:
    """Compares a layer with its factors on the runtime that will run them; once each shape."""

    context: CompressContext
    settings: LowRankSettings
    known: dict[Any, tuple[float, float]] = field(default_factory=dict)

    def latencies(self, site: LayerSite, factors: nn.Module) -> tuple[float, float]:
        """Return the seconds of all calls of the layer and of its factors, in one batch."""
        pairs = [self._latencies(site.layer, factors, given=given) for given in site.inputs]
        return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)

    def _latencies(self, *pair: nn.Module, given: Tensor) -> tuple[float, float]:
        settings, key = self.settings, (*map(str, pair), given.shape)
        if key not in self.known:
            # The layer's rows may be more than the model's: windows, time steps.
            rows = max(1, len(given) * settings.latency_batch_size // len(self.context.example))
            before, after = self.context.stopwatch(
                [copy.deepcopy(module).cpu().eval() for module in pair],
                # Two rows: exporters take a batch of one for a constant.
                given[:2] if len(given) > 1 else torch.cat([given, given]),
                Timing(runtime=settings.runtime, batch_size=rows, threads=settings.threads),
            )
            self.known[key] = before, after
        return self.known[key]


def replace_layers(
    model: nn.Module,
    context: CompressContext,
    *,
    make: Make,
    why_not: Callable[[nn.Module], str | None] = lambda layer: None,
    settings: LowRankSettings,
) -> nn.Module:
    """Return a copy of the model with factors in some places; the report lists all places.

    Args:
        model: Is left as it is.
        context: The data, the stopwatch, the report.
        make: Takes a layer's weight apart, by the moments of its inputs if there are any.
        why_not: Why a layer cannot be taken apart, None when it can.
        settings: What was asked for.
    """
    target = settings.rank_target()
    settings.warn_of_those_without_effect()
    refuse_integers(model, settings.technique)
    names = [name for name, _ in model.named_modules()]
    matching(names, settings.ignore, where=f"{settings.technique}.ignore")
    probe, example = copy.deepcopy(model).eval(), context.example
    sites, declined = find_sites(probe, example, settings.ignore)
    declined |= {p.name: reason for p in sites if (reason := why_not(p.layer)) is not None}
    sites = [site for site in sites if site.name not in declined]
    grams = _grams(probe, context, sites, settings)
    candidates = Candidates(sites, {p.name: make(p.layer, grams.get(p.name)) for p in sites})
    cost = _cost(probe, example, candidates, target)
    measured = None if settings.always else LatencyComparison(context=context, settings=settings)
    ranks, rows = _settle(candidates, target, cost, measured, declined)
    if target.is_budget:
        _say_what_is_reached(settings.technique, target, cost(ranks) / cost({}))
    result = copy.deepcopy(model)
    for name, rank in ranks.items():
        factors = candidates.found[name].layers(rank).train(result.get_submodule(name).training)
        result = put(result, candidates.sites[name], factors)
        rows[name]["whitened"] = name in grams
    context.report["replaced"] = list(rows.values())
    context.report["declined"] = [{"layer": n, "reason": r} for n, r in declined.items()]
    if not rows:
        _LOG.warning("%s: no layer is better as factors; nothing changes", settings.technique)
    return result


def _cost(
    model: nn.Module, example: Tensor, candidates: Candidates, target: RankTarget
) -> Callable[[Mapping[str, Ranks]], float]:
    """Return a function that tells what the whole model costs with the factors of these ranks."""
    if target.rule == "parameters":
        parameters = count_parameters(model)
        return lambda ranks: (
            parameters
            - sum(candidates.saved(name, rank, "parameters") for name, rank in ranks.items())
        )
    macs = count_macs(model, example) * len(example)
    return lambda ranks: macs - sum(candidates.saved(name, rank) for name, rank in ranks.items())


def _settle(
    candidates: Candidates,
    target: RankTarget,
    cost: Callable[[Mapping[str, Ranks]], float],
    measured: LatencyComparison | None,
    declined: dict[str, str],
) -> tuple[dict[str, Ranks], dict[str, dict[str, Any]]]:
    """Return the ranks of the places where factors are better, with their rows of the report.

    A budget is sought again without the offers that were measured slower; `declined` gets the
    reasons.
    """
    slower: dict[str, str] = {}
    for attempt in range(ROUNDS if target.is_budget else 1):
        ranks = choose(candidates.found, target, cost)
        if target.is_budget and not attempt:
            _check_reach(target, cost(ranks) / cost({}))
        taken = {name: rank for name, rank in ranks.items() if candidates.saved(name, rank)}
        rows = {name: _row(candidates, name, rank, measured) for name, rank in taken.items()}
        found = {name: reason for name, row in rows.items() if (reason := _slower(row))}
        for name in found:
            candidates.refuse(name, taken.pop(name))
            del rows[name]
        slower |= found
        if not found:
            break
    for name, rank in ranks.items():
        if name not in taken:
            full = _text(candidates.found[name].full)
            declined[name] = slower.get(name, f"rank {_text(rank)} of {full} saves nothing")
    return taken, rows


def _slower(row: Mapping[str, Any]) -> str | None:
    before, after = row["latency_before_seconds"], row["latency_after_seconds"]
    if before is None or after <= before * (1 - NOISE):
        return None
    times = f"{after * 1e3:.3g} ms against {before * 1e3:.3g} ms"
    return f"not measured faster: {times} at rank {row['rank']}"


def _row(
    candidates: Candidates, name: str, ranks: Ranks, measured: LatencyComparison | None
) -> dict[str, Any]:
    found = candidates.found[name]
    before = after = None
    if measured is not None:
        before, after = measured.latencies(candidates.sites[name], found.layers(ranks))
    dense, weights = candidates.weights(name, ranks)
    return {
        "layer": name,
        "rank": _text(ranks),
        "full_rank": _text(found.full),
        "energy_kept": round(found.energy(ranks), 4),
        "parameters_before": dense,
        "parameters_after": weights,
        "latency_before_seconds": before,
        "latency_after_seconds": after,
    }


def _text(ranks: Ranks) -> str:
    return "x".join(map(str, ranks))


def _grams(
    model: nn.Module, context: CompressContext, sites: list[LayerSite], settings: LowRankSettings
) -> dict[str, Tensor]:
    if not settings.whiten:
        return {}
    names = [p.name for p in sites if p.layer.weight[0].numel() <= MOST_INPUTS]
    batches = context.batches(context.data.train, settings.batch_size, settings.batches)
    if not names:
        return {}
    # Convolutions in groups were declined: there is one.
    grams = input_grams(model, (x for x, _ in batches), names)
    return {name: gram[0] for name, gram in grams.items()}


def _check_reach(target: RankTarget, reached: float) -> None:
    if reached > target.value * (1 + TOLERANCE):
        raise ModelError(
            f"factors cannot keep {target.value:.0%} of the {target.rule}: at the lowest ranks "
            f"(round_to {target.round_to}) {reached:.1%} are left",
            hint="ask for less, ignore fewer layers, or prune channels before",
        )


def _say_what_is_reached(technique: str, target: RankTarget, reached: float) -> None:
    is_close = reached <= target.value * (1 + TOLERANCE)
    _LOG.log(
        logging.INFO if is_close else logging.WARNING,
        "%s keeps %.1f %% of the %s; asked for %.1f %%; layers measured slower stay as they are",
        *(technique, reached * 100, target.rule, target.value * 100),
    )
