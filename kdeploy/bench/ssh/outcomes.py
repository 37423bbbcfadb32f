"""Judge at home what a device has seen, with the same rules as what was measured here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.bench import doubts
from kdeploy.bench.model_under_test import Outcome, Seconds
from kdeploy.bench.ssh.job import DeviceGroup, Job, SentItems
from kdeploy.bench.system_load import Counters, doubts_between
from kdeploy.data.contract import NOT_COUNTED
from kdeploy.onnx_graph.operators import integer_and_eligible, is_quantized
from kdeploy.runtimes.contract import Proof
from kdeploy.tasks.contract import Predictions, Task, judged_as, metrics_for

Arrays = Mapping[str, NDArray[Any]]


def outcomes_of(file: Path, group: DeviceGroup, job: Job) -> list[Outcome]:
    """Return one outcome a model, from the result of a group."""
    with np.load(file) as kept:
        arrays: dict[str, NDArray[Any]] = dict(kept)
    seen = json.loads(str(arrays["seen"]))
    flags = doubts_between(Counters(**seen["before"]), Counters(**seen["after"]))
    outcomes = []
    for number, session in enumerate(seen["sides"]):
        own = {name: arrays[f"{name}-{number}"] for name in _NAMES if f"{name}-{number}" in arrays}
        outcomes.append(_outcome(session, own, number, (group, job), flags))
    return outcomes


METRIC = "accuracy.top1"
"""What the row of a task is called that has no metric registered."""
_NAMES = ("nanoseconds", "counts", "predictions")


def _outcome(
    session: Mapping[str, Any],
    arrays: Arrays,
    number: int,
    asked: tuple[DeviceGroup, Job],
    flags: tuple[str, ...],
) -> Outcome:
    group, job = asked
    model = job.models[number]
    if session["failure"] is not None:
        return Outcome(
            model=model,
            configuration=group.configuration,
            input_shape=group.input_shapes[number],
            skipped=session["failure"],
        )
    rounds, peak_bytes = _rounds(arrays), session["peak_bytes"]
    predictions, accuracy, missing = _quality(arrays, job.test, job.task)
    if group.unjudged:
        missing = {next(iter(metrics_for(judged_as(job.task))), METRIC): group.unjudged}
    return Outcome(
        model=model,
        configuration=group.configuration,
        input_shape=group.input_shapes[number],
        load_seconds=session["load_seconds"],
        first_seconds=session["first_seconds"],
        rounds=rounds,
        elapsed_seconds=tuple(session["elapsed_seconds"]),
        peak_memory_bytes=peak_bytes,
        numbers={
            "cold_start": session["cold_start_seconds"],
            "load_memory": session["loaded_bytes"] - session["empty_bytes"],
            "memory_over_runtime": peak_bytes - session["empty_bytes"],
        },
        proof=_proof(session, group) if "operators" in session else None,
        accuracy=accuracy,
        predictions=predictions,
        missing={**session["missing"], **missing},
        flags=(
            *(() if group.is_real else ("random_inputs",)),
            *flags,
            *doubts.of_warm_up(is_steady=session["is_steady"]),
            *doubts.of_samples(rounds),
            *doubts.of_memory(swapped_bytes=session["swapped_bytes"]),
        ),
    )


def _rounds(arrays: Arrays) -> tuple[Seconds, ...]:
    ends = np.cumsum(arrays["counts"])[:-1]
    return tuple(np.split(arrays["nanoseconds"] * 1e-9, ends))


def _proof(session: Mapping[str, Any], group: DeviceGroup) -> Proof:
    integer, eligible = integer_and_eligible(session["operators"])
    return Proof(
        provider=session["provider"],
        eligible=eligible,
        integer=integer,
        is_quantized=is_quantized(session["stored_operators"]),
        operators=session["operators"],
        settings={"intra_op_num_threads": group.configuration.threads, "allow_spinning": True},
    )


def _quality(
    arrays: Arrays, test: SentItems | None, task: Task
) -> tuple[Predictions | None, dict[str, float], dict[str, str]]:
    """Return the predictions that count, the task's metrics, and what could not be had."""
    if test is None or "predictions" not in arrays:
        return None, {}, {}
    found, expected = arrays["predictions"], task.expected(test.targets)
    if found.shape == test.targets.shape:  # of tokens, those that count
        found = found[test.targets != NOT_COUNTED]
    if found.shape != expected.shape:
        reason = f"the file answers {list(found.shape)}, the targets are {list(expected.shape)}"
        return None, {}, {next(iter(metrics_for(judged_as(task)))): reason}
    missing = {"perplexity": "a device sends classes home, no probabilities"}
    is_tokens = (
        bool(metrics_for(judged_as(task), needs="log_likelihoods")) and test.targets.ndim > 1
    )
    return found, task.metrics(found, expected), missing if is_tokens else {}
