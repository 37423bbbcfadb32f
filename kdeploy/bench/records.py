"""Turn outcomes into records and comparisons, the form in which other stages meet them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.bench import doubts, early_stopping, stats
from kdeploy.bench.model_under_test import ModelUnderTest, Outcome, Seconds
from kdeploy.bench.stats import Estimate
from kdeploy.flags import P99_MINIMUM_COUNT
from kdeploy.machine import Machine
from kdeploy.measurement import METRICS, Measurement
from kdeploy.runtimes.files import files_of, parameters_of
from kdeploy.runtimes.run import device_of
from kdeploy.tasks.contract import Predictions, Task, classification, judged_as, metrics_for

PERCENTS = (50.0, 90.0, 99.0)
NOT_FINITE = ("not_finite",)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Number:
    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 1
    flags: tuple[str, ...] = ()
    skipped: str | None = None


def measurements(
    outcome: Outcome,
    machine: Machine,
    *,
    reference_predictions: Predictions | None,
    task: Task | None = None,
) -> list[Measurement]:
    """Return the records of one outcome; the reference predictions are the baseline's.

    Without a task they are classes.
    """
    if outcome.skipped is not None:
        nothing = _Number(metric="latency.p50", value=None, n=0, skipped=outcome.skipped)
        return [_record(outcome, nothing, machine)]
    numbers = [
        *_times(outcome, machine),
        *_facts(outcome, machine),
        *_judged(outcome, reference_predictions, task or classification()),
    ]
    return [_record(outcome, number, machine) for number in numbers]


def validated(
    outcome: Outcome,
    machine: Machine,
    *,
    reference_predictions: Predictions | None,
    task: Task | None = None,
) -> list[Measurement]:
    """Return the records of what answers are worth on the validation part; none: not judged."""
    there = replace(
        outcome,
        accuracy=outcome.validation_accuracy,
        predictions=outcome.validation_predictions,
        missing={},
    )
    numbers = _judged(there, reference_predictions, task or classification())
    return [_record(outcome, number, machine) for number in numbers]


def comparisons(outcomes: Sequence[Outcome], *, baseline: str) -> list[dict[str, Any]]:
    """Return how many times better than the baseline each other outcome of the same rounds is."""
    measured = [outcome for outcome in outcomes if outcome.skipped is None]
    base = next((o for o in measured if o.model.label == baseline), None)
    if base is None or base.configuration.scenario == "server":  # its search takes no turns
        return []
    others = [o for o in measured if o is not base]
    return [line for other in others for line in _compared(other, base)]


def proven(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return what each file ran as in each runtime: its operators, and its layers where known.

    Of several batch sizes, thread counts and scenarios the first: the graph is the same.
    """
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for outcome in outcomes:
        model, proof = outcome.model, outcome.proof
        if proof is not None:
            line = {
                "label": model.label,
                "profile": model.profile,
                "runtime": outcome.configuration.runtime,
                "provider": proof.provider,
                "operators": proof.operators,
                "layers": proof.layers,
            }
            found.setdefault((model.label, model.profile, outcome.configuration.runtime), line)
    return list(found.values())


def _compared(other: Outcome, base: Outcome) -> Iterator[dict[str, Any]]:
    medians, base_medians = ([float(np.median(r)) for r in o.rounds] for o in (other, base))
    rates, base_rates = (_rates(o).tolist() for o in (other, base))
    pairs = {"latency.p50": (base_medians, medians), "throughput": (rates, base_rates)}
    flags = _kind_of_file(other.model) or _kind_of_file(base.model)
    if flags:  # a median may be that of early answers alone
        means, base_means = ([float(np.mean(r)) for r in o.rounds] for o in (other, base))
        pairs = {"latency.mean": (base_means, means), **pairs}
    if other.batch_size != base.batch_size:  # times of different work
        pairs = {name: pair for name, pair in pairs.items() if not name.startswith("latency.")}
    for metric, (above, below) in pairs.items():
        ratio = stats.paired_ratio(above, below)
        yield {
            "label": other.model.label,
            "profile": other.model.profile,
            "baseline": base.model.label,
            "runtime": other.configuration.runtime,
            "batch_size": other.batch_size,
            "threads": other.configuration.threads,
            "scenario": other.configuration.scenario,
            "input_shape": _swept_shape(other),
            "metric": metric,
            "ratio": ratio.value,
            "low": ratio.low,
            "high": ratio.high,
            "verdict": stats.verdict(ratio),
            **({"flags": list(flags)} if flags else {}),
        }


def _rates(outcome: Outcome) -> NDArray[np.float64]:
    """Return the items a second of each round."""
    return np.array(
        [
            len(samples) * outcome.batch_size / elapsed_seconds
            for samples, elapsed_seconds in zip(
                outcome.rounds, outcome.elapsed_seconds, strict=True
            )
        ]
    )


def _times(outcome: Outcome, machine: Machine) -> Iterator[_Number]:
    here = doubts.of_machine(machine)
    integers = doubts.of_integers(outcome.proof, device_of(outcome.configuration.runtime), machine)
    flags = (*here, *outcome.flags, *doubts.of_proof(outcome.proof), *integers)
    count = sum(len(r) for r in outcome.rounds)
    yield _estimated("latency.mean", stats.mean(outcome.rounds), count, flags)
    yield from _percentiles("latency", outcome.rounds, flags)
    if outcome.device_rounds:
        yield from _percentiles("device_latency", outcome.device_rounds, flags)
    if outcome.configuration.scenario != "server":  # where it is what was asked for
        items = np.array([len(r) for r in outcome.rounds]) * outcome.batch_size
        rate = stats.ratio_of_sums(items, np.array(outcome.elapsed_seconds))
        yield _estimated("throughput", rate, count, flags)
    if outcome.parts:
        yield from _generated(outcome, flags)
    for metric in ("server_rate", "energy", "cold_start"):
        if metric in outcome.numbers:
            own = here if metric == "cold_start" else flags
            yield _Number(metric=metric, value=outcome.numbers[metric], flags=own)
    yield _Number(metric="load_time", value=outcome.load_seconds, flags=here)
    median = float(np.median(np.concatenate(outcome.rounds)))
    first = (*here, *doubts.of_first(outcome.first_seconds, median))
    yield _Number(metric="first_inference", value=outcome.first_seconds, flags=first)


def _generated(outcome: Outcome, flags: tuple[str, ...]) -> Iterator[_Number]:
    """Yield what the parts of generated texts tell: rates are of the median time."""
    first, prefill, later = (outcome.parts[n] for n in ("first_token", "prefill", "inter_token"))
    count = sum(map(len, later))
    (estimate,) = stats.percentiles(first, [50.0])
    yield _estimated("generate.first_token", estimate, sum(map(len, first)), flags)
    for metric, rounds, work in (
        ("generate.prefill_rate", prefill, outcome.input_shape[-1]),
        ("generate.decode_rate", later, 1),
    ):
        (time,) = stats.percentiles(rounds, [50.0])
        rate = Estimate(value=work / time.value, low=work / time.high, high=work / time.low)
        yield _estimated(metric, rate, sum(map(len, rounds)), flags)
    middle, slowest = stats.percentiles(later, [50.0, 99.0])
    yield _estimated("generate.inter_token.p50", middle, count, flags)
    doubtful = (*flags, *doubts.of_count(99.0, count))
    yield _estimated("generate.inter_token.p99", slowest, count, doubtful)


def _percentiles(
    family: str, rounds: Sequence[Seconds], flags: tuple[str, ...]
) -> Iterator[_Number]:
    count = sum(len(r) for r in rounds)
    for percent, estimate in zip(PERCENTS, stats.percentiles(rounds, list(PERCENTS)), strict=True):
        metric = f"{family}.p{percent:g}"
        if percent == 99.0 and count < P99_MINIMUM_COUNT:
            yield _bound_of_p99(metric, rounds, count, flags)
        else:
            yield _estimated(metric, estimate, count, (*flags, *doubts.of_count(percent, count)))


def _bound_of_p99(
    metric: str, rounds: Sequence[Seconds], count: int, flags: tuple[str, ...]
) -> _Number:
    found = early_stopping.bound(np.concatenate(rounds), 0.99)
    if found is not None:
        return _Number(metric=metric, value=found, n=count, flags=(*flags, "p99_bound"))
    needed = early_stopping.smallest_count(0.99)
    reason = f"a bound of the p99 needs {needed} batches, there were {count}: measure longer"
    return _Number(metric=metric, value=None, n=count, skipped=reason)


def _facts(outcome: Outcome, machine: Machine) -> Iterator[_Number]:
    model, proof = outcome.model, outcome.proof
    parameters = model.parameters
    if parameters is None:
        parameters = parameters_of(model.path, model.format)
    swapped = tuple(flag for flag in outcome.flags if flag == "swapped")
    yield _Number(metric="peak_memory", value=outcome.peak_memory_bytes, flags=swapped)
    for metric in ("memory_over_runtime", "load_memory", "device_memory", "offline_batch_size"):
        if metric in outcome.numbers:
            own = swapped if metric == "memory_over_runtime" else ()
            yield _Number(metric=metric, value=outcome.numbers[metric], flags=own)
    yield _Number(metric="size", value=_size(model))
    if proof is not None and proof.arena_bytes is not None:
        yield _Number(metric="arena_memory", value=proof.arena_bytes)
    if parameters is not None:
        yield _Number(metric="parameters", value=parameters)
    if model.macs is not None:
        yield _Number(metric="macs", value=model.macs)
    if "early_items" in outcome.numbers and outcome.predictions is not None:
        count = len(outcome.predictions)
        early = stats.fraction(outcome.numbers["early_items"] / count, count)
        yield _estimated("early_share", early, count)
    if proof is not None and proof.is_quantized and proof.eligible:
        integers = doubts.of_integers(proof, device_of(outcome.configuration.runtime), machine)
        flags = (*doubts.of_proof(proof), *integers)
        share = proof.integer / proof.eligible
        yield _Number(metric="integer_kernels", value=share, n=proof.eligible, flags=flags)
    if proof is not None and proof.sparse_eligible:
        share, flags = proof.sparse / proof.sparse_eligible, doubts.of_proof(proof)
        yield _Number(metric="sparse_kernels", value=share, n=proof.sparse_eligible, flags=flags)
    if proof is not None and proof.four_bit_eligible:
        share = proof.four_bit / proof.four_bit_eligible
        yield _Number(metric="four_bit_kernels", value=share, n=proof.four_bit_eligible)


def _judged(
    outcome: Outcome, reference_predictions: Predictions | None, task: Task
) -> Iterator[_Number]:
    predicted = outcome.predictions
    for metric, reason in outcome.missing.items():
        yield _Number(metric=metric, value=None, n=0, skipped=reason)
    if predicted is None:
        return
    count = len(predicted)
    found = dict(outcome.accuracy)
    yield from _unreadable(task, False, predicted)
    if reference_predictions is not None and len(reference_predictions) == count:
        found |= task.agreement(predicted, reference_predictions)
        yield from _unreadable(task, True, predicted, reference_predictions)
    for metric, value in found.items():
        if not math.isfinite(value):
            reason = (
                f"{metric} is {value}: an answer is NaN or infinite, or gives its label no chance"
            )
            yield _Number(metric=metric, value=None, n=count, flags=NOT_FINITE, skipped=reason)
        # Only a mean over items has a binomial's interval.
        elif metric.endswith(".top1"):
            yield _estimated(metric, stats.fraction(value, count), count)
        else:
            yield _Number(metric=metric, value=value, n=count)


def _unreadable(task: Task, is_agreement: bool, *sides: Predictions) -> Iterator[_Number]:
    """Yield the metrics, or agreements, that have no value, with the reason."""
    for side, whose in zip(sides, ("", "the baseline: "), strict=False):
        reason = task.unreadable(side, what="test items")
        if reason is not None:
            for metric in metrics_for(judged_as(task), family="agreement" if is_agreement else ""):
                said = whose + reason
                yield _Number(
                    metric=metric, value=None, n=len(side), flags=NOT_FINITE, skipped=said
                )
            return


def _estimated(metric: str, estimate: Estimate, count: int, flags: tuple[str, ...] = ()) -> _Number:
    value, low, high = estimate.value, estimate.low, estimate.high
    return _Number(metric=metric, value=value, low=low, high=high, n=count, flags=flags)


def _record(outcome: Outcome, number: _Number, machine: Machine) -> Measurement:
    model, configuration = outcome.model, outcome.configuration
    return Measurement(
        artifact=model.artifact,
        label=model.label,
        stage=model.stage,
        technique=model.technique,
        profile=model.profile,
        runtime=configuration.runtime,
        device=device_of(configuration.runtime),
        batch_size=outcome.batch_size,
        threads=configuration.threads,
        scenario=configuration.scenario,
        input_shape="" if METRICS[number.metric].is_judged else _swept_shape(outcome),
        machine=machine.id,
        metric=number.metric,
        value=None if number.value is None else float(number.value),
        low=number.low,
        high=number.high,
        n=number.n,
        flags=tuple(
            dict.fromkeys((*_kind_of_file(model), *doubts.of_emulation(machine), *number.flags))
        ),
        skipped=number.skipped,
    )


def _kind_of_file(model: ModelUnderTest) -> tuple[str, ...]:
    return ("dynamic",) if model.format == "dynamic" else ()


def _swept_shape(outcome: Outcome) -> str:
    """Return the shape of an item where sizes were swept; what was skipped has only the size."""
    configuration = outcome.configuration
    return (
        "x".join(str(n) for n in outcome.input_shape or configuration.size)
        if configuration.size
        else ""
    )


def _size(model: ModelUnderTest) -> int:
    """Return the bytes that would be shipped: the file, or the tensors of a torch artefact."""
    if model.path.is_dir():
        tensors = list(model.path.glob("*.safetensors")) or list(model.path.iterdir())
        return sum(path.stat().st_size for path in tensors if path.is_file())
    return sum(file.stat().st_size for file in files_of(model.path))
