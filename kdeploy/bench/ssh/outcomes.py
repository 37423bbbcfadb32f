"""Judge at home what a device has seen, with the same rules as what was measured here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.bench import doubts
from kdeploy.bench.accuracy import one_or_all
from kdeploy.bench.model_under_test import Outcome, Seconds
from kdeploy.bench.ssh.job import DeviceGroup, Job, SentItems
from kdeploy.bench.system_load import Counters, doubts_between
from kdeploy.data.contract import NOT_COUNTED
from kdeploy.errors import KdeployError
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
        end = f"-{number}"
        own = {name.removesuffix(end): a for name, a in arrays.items() if name.endswith(end)}
        outcomes.append(_outcome(session, own, number, (group, job), flags))
    return outcomes


METRIC = "accuracy.top1"
"""What the row of a task is called that has no metric registered."""
_ANSWER = "answer."


def _outcome(
    session: Mapping[str, Any],
    arrays: Arrays,
    number: int,
    asked: tuple[DeviceGroup, Job],
    flags: tuple[str, ...],
) -> Outcome:
    group, job = asked
    model, pool = job.models[group.members[number]], group.made[number]
    if session["failure"] is not None:
        return Outcome(
            model=model,
            configuration=group.configuration,
            input_shape=pool.shape,
            skipped=session["failure"],
        )
    rounds, peak_bytes = _rounds(arrays), session["peak_bytes"]
    predictions, accuracy, missing = _quality(arrays, job)
    return Outcome(
        model=model,
        configuration=group.configuration,
        input_shape=pool.shape,
        load_seconds=session["load_seconds"],
        first_seconds=session["first_seconds"],
        rounds=rounds,
        elapsed_seconds=tuple(session["elapsed_seconds"]),
        peak_memory_bytes=peak_bytes,
        numbers={
            "cold_start": session["cold_start_seconds"],
            "load_memory": session["loaded_bytes"] - session["empty_bytes"],
            "memory_over_runtime": peak_bytes - session["empty_bytes"],
            **_energy(session, group),
        },
        proof=_proof(session, group),
        accuracy=accuracy,
        predictions=predictions,
        missing={**session["missing"], **session.get("not_told", {}), **missing},
        flags=(
            *(() if pool.is_real else ("random_inputs",)),
            *flags,
            *doubts.of_warm_up(is_steady=session["is_steady"]),
            *doubts.of_samples(rounds),
            *doubts.of_memory(swapped_bytes=session["swapped_bytes"]),
        ),
    )


def _rounds(arrays: Arrays) -> tuple[Seconds, ...]:
    ends = np.cumsum(arrays["counts"])[:-1]
    return tuple(np.split(arrays["nanoseconds"] * 1e-9, ends))


def _energy(session: Mapping[str, Any], group: DeviceGroup) -> dict[str, float]:
    if "joules" not in session:
        return {}
    items = session["num_batches"] * group.configuration.batch_size
    return {"energy": session["joules"] / items}


def _proof(session: Mapping[str, Any], group: DeviceGroup) -> Proof | None:
    if "proof" in session:  # a runtime that proves itself what it ran
        return Proof(**session["proof"])
    if "operators" not in session:
        return None
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
    arrays: Arrays, job: Job
) -> tuple[Predictions | None, dict[str, float], dict[str, str]]:
    """Return the predictions that count, the task's metrics, and what could not be had."""
    answer = {n.removeprefix(_ANSWER): a for n, a in arrays.items() if n.startswith(_ANSWER)}
    if job.test is None or not answer:
        return None, {}, {}
    if job.answers == "classes":
        return _of_classes(answer["predictions"], job.test, job.task)
    task, targets = job.task, job.test.targets
    try:
        found = task.predictions(one_or_all(answer), targets)
        metrics = task.metrics(found, task.expected(targets), None)
    except KdeployError as error:
        return None, {}, {_main_metric(task): error.message}
    return found, metrics, {}


def _of_classes(
    found: NDArray[Any], test: SentItems, task: Task
) -> tuple[Predictions | None, dict[str, float], dict[str, str]]:
    """Return the same of answers that are a class an item, or a token."""
    expected = task.expected(test.targets)
    if found.shape == test.targets.shape:  # of tokens, those that count
        found = found[test.targets != NOT_COUNTED]
    if found.shape != expected.shape:
        reason = f"the file answers {list(found.shape)}, the targets are {list(expected.shape)}"
        return None, {}, {_main_metric(task): reason}
    missing = {
        metric: "a device sends classes home, no probabilities"
        for needs in ("log_likelihoods", "divergences")
        for metric in metrics_for(judged_as(task), needs=needs)
    }
    return found, task.metrics(found, expected), missing if test.targets.ndim > 1 else {}


def _main_metric(task: Task) -> str:
    return next(iter(metrics_for(judged_as(task))), METRIC)
