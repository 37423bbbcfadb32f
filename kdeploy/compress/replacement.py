"""Put factors in the places of layers, where they are fewer and measured to be faster.

What `low_rank` and `tucker` share: which layers, at which ranks, judged by a stopwatch.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdeploy.compress.contract import CompressContext
from kdeploy.errors import ModelError, OrderError, RecipeError, UnknownName
from kdeploy.factors.offers import Offers
from kdeploy.factors.places import Place, find_places, put
from kdeploy.factors.ranks import Aim, Factorisation, Ranks, choose
from kdeploy.moments import input_moments
from kdeploy.quantization.contract import Wrapped
from kdeploy.structure import count_macs, count_parameters

_LOG = logging.getLogger(__name__)
ENERGY = 0.99  # when no aim is given
ROUNDS = 3  # of choosing for a budget anew, without what was measured slower
NOISE = 0.03  # a latency that is lower by less than this fraction is not lower
TOLERANCE = 0.02  # of the budget; a result further above is reported
MOST_INPUTS = 8192  # of a layer whose second moments are taken: they are 256 MiB then

Make = Callable[[Any, Tensor | None], Factorisation]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The batches that inputs are seen in."""

    batches: int
    batch_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Compares a layer with its factors on the runtime that will run them; once each shape."""

    context: CompressContext
    runtime: str
    threads: int | None
    batch_size: int
    known: dict[Any, tuple[float, float]] = field(default_factory=dict)

    def latencies(self, place: Place, factors: nn.Module) -> tuple[float, float]:
        """Return the seconds of all calls of the layer and of its factors, in one batch."""
        pairs = [self._latencies(place.layer, factors, given=given) for given in place.inputs]
        return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)

    def _latencies(
        self, layer: nn.Module, factors: nn.Module, given: Tensor
    ) -> tuple[float, float]:
        key = (str(layer), str(factors), given.shape)
        if key not in self.known:
            # The layer's rows may be more than the model's: windows, time steps.
            rows = max(1, len(given) * self.batch_size // len(self.context.example))
            models = [copy.deepcopy(module).cpu().eval() for module in (layer, factors)]
            before, after = self.context.stopwatch(
                models,
                given[:2] if len(given) > 1 else torch.cat([given, given]),
                runtime=self.runtime,
                batch_size=rows,
                threads=self.threads,
            )
            self.known[key] = before, after
        return self.known[key]


def aim_of(
    technique: str,
    *,
    energy: float | None,
    rank_ratio: float | None,
    vbmf: bool,
    target: Mapping[Literal["macs", "parameters"], float] | None,
    round_to: int,
) -> Aim:
    """Return the one aim that was given, or the default one.

    Raises:
        RecipeError: more than one was.
    """
    given: dict[Any, float] = {"energy": energy, "rank_ratio": rank_ratio, "vbmf": vbmf or None}  # type: ignore[dict-item]
    aims = {rule: float(value) for rule, value in given.items() if value is not None}
    aims |= dict(target or {})
    if len(aims) > 1 or (target is not None and len(target) != 1):
        raise RecipeError(
            f"{technique} takes one aim, found {', '.join(aims) or dict(target or {})}",
            hint="write `energy: 0.99`, `rank_ratio: 0.5`, `vbmf: true` or `target: {macs: 0.5}`",
        )
    [(rule, value)] = aims.items() or {"energy": ENERGY}.items()
    return Aim(rule=rule, value=value, round_to=round_to)


def replace_layers(
    technique: str,
    model: nn.Module,
    context: CompressContext,
    *,
    make: Make,
    accepts: Callable[[nn.Module], str | None],
    aim: Aim,
    calibration: Calibration | None,
    judge: Judge | None,
    ignore: tuple[str, ...],
) -> nn.Module:
    """Return a copy of the model with factors in some places; the report lists all places.

    Args:
        technique: For messages.
        model: Is left as it is.
        context: The data, the stopwatch, the report.
        make: Takes a layer's weight apart, by the moments of its inputs if there are any.
        accepts: Why a layer cannot be taken apart, None when it can.
        aim: What decides the ranks.
        calibration: None: all inputs count alike.
        judge: None: everything that saves MACs and weights is taken.
        ignore: Patterns of layers that stay.
    """
    _check(technique, model, ignore)
    probe, example = copy.deepcopy(model).eval(), context.example
    places, declined = find_places(probe, example, ignore)
    declined |= {p.name: reason for p in places if (reason := accepts(p.layer)) is not None}
    places = [place for place in places if place.name not in declined]
    moments = _moments(probe, context, places, calibration)
    offers = Offers(places, {p.name: make(p.layer, moments.get(p.name)) for p in places})
    what: Literal["macs", "parameters"] = "parameters" if aim.rule == "parameters" else "macs"
    whole = count_parameters(probe)
    if what == "macs":
        whole = count_macs(probe, example) * len(example)

    def cost(ranks: Mapping[str, Ranks]) -> float:
        return whole - sum(offers.saved(name, rank, what) for name, rank in ranks.items())

    ranks, rows = _settle(technique, offers, aim, cost, judge, declined)
    if aim.is_budget:
        _say_what_is_reached(technique, aim, cost(ranks) / whole)
    result = copy.deepcopy(model)
    for name, rank in ranks.items():
        place = offers.places[name]
        factors = offers.found[name].layers(rank)
        result = put(result, place, factors.train(result.get_submodule(name).training))
        rows[name]["whitened"] = name in moments
    _report(technique, context, list(rows.values()), declined)
    return result


def _settle(
    technique: str,
    offers: Offers,
    aim: Aim,
    cost: Callable[[Mapping[str, Ranks]], float],
    judge: Judge | None,
    declined: dict[str, str],
) -> tuple[dict[str, Ranks], dict[str, dict[str, Any]]]:
    """Return the ranks of the places where factors are better, with their row of the report."""
    for attempt in range(ROUNDS if aim.is_budget else 1):
        ranks = choose(offers.found, aim, cost)
        if aim.is_budget and not attempt:
            _check_reached(technique, aim, cost(ranks) / cost({}))
        rows, slower = {}, {}
        for name, rank in ranks.items():
            if not offers.saved(name, rank):
                full = _text(offers.found[name].full)
                declined.setdefault(name, f"rank {_text(rank)} of {full} saves nothing")
                continue
            rows[name] = _row(offers, name, rank, judge)
            before, after = (
                rows[name]["latency_before_seconds"],
                rows[name]["latency_after_seconds"],
            )
            if before is not None and after > before * (1 - NOISE):
                slower[name] = (
                    f"measured slower: {after * 1e3:.3g} ms against {before * 1e3:.3g} ms "
                    f"at rank {_text(rank)}"
                )
        declined |= slower
        for name in slower:
            offers.refuse(name, ranks[name])
        if not slower:
            break
    kept = {name: ranks[name] for name in rows if name not in slower}
    for name in kept:
        declined.pop(name, None)
    return kept, {name: rows[name] for name in kept}


def _slower(row: Mapping[str, Any]) -> str | None:
    before, after = row["latency_before_seconds"], row["latency_after_seconds"]
    if before is None or after <= before * (1 - NOISE):
        return None
    times = f"{after * 1e3:.3g} ms against {before * 1e3:.3g} ms"
    return f"not measured faster: {times} at rank {row['rank']}"


def _row(offers: Offers, name: str, ranks: Ranks, judge: Judge | None) -> dict[str, Any]:
    found = offers.found[name]
    before = after = None
    if judge is not None:
        before, after = judge.latencies(offers.places[name], found.layers(ranks))
    dense, weights = offers.weights(name, ranks)
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


def _moments(
    model: nn.Module, context: CompressContext, places: list[Place], calibration: Calibration | None
) -> dict[str, Tensor]:
    if calibration is None or not len(context.data.train):
        return {}
    names = [p.name for p in places if p.layer.weight[0].numel() <= MOST_INPUTS]
    train = context.data.train
    batches = context.batches(train, calibration.batch_size, calibration.batches)
    if not names:
        return {}
    # Convolutions in groups were declined: there is one.
    moments = input_moments(model, (x for x, _ in batches), names)
    return {name: moment[0] for name, moment in moments.items()}


def _check(technique: str, model: nn.Module, ignore: tuple[str, ...]) -> None:
    if isinstance(model, Wrapped):
        raise OrderError(
            f"the weights of a quantized model (`{model.wrapper}`) cannot be taken apart",
            hint=f"put `{technique}` before the INT8 step",
        )
    names = [name for name, _ in model.named_modules()]
    for pattern in ignore:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UnknownName.among("layer", pattern, names, where=f"{technique}.ignore")


def _check_reached(technique: str, aim: Aim, reached: float) -> None:
    if reached > aim.value * (1 + TOLERANCE):
        raise ModelError(
            f"{technique} cannot keep {aim.value:.0%} of the {aim.rule}: at the lowest ranks "
            f"(round_to {aim.round_to}) {reached:.1%} are left",
            hint="ask for less, ignore fewer layers, or prune channels before",
        )


def _say_what_is_reached(technique: str, aim: Aim, reached: float) -> None:
    is_close = reached <= aim.value * (1 + TOLERANCE)
    _LOG.log(
        logging.INFO if is_close else logging.WARNING,
        "%s keeps %.1f %% of the %s; asked for %.1f %%; layers measured slower stay as they are",
        *(technique, reached * 100, aim.rule, aim.value * 100),
    )


def _report(
    technique: str, context: CompressContext, replaced: list[Any], declined: Mapping[str, str]
) -> None:
    context.report["replaced"] = replaced
    context.report["declined"] = [{"layer": n, "reason": r} for n, r in declined.items()]
    if not replaced:
        _LOG.warning("%s: no layer is better as factors; nothing has changed", technique)
