"""Measure the same files on several devices at once, and bring the records home.

    out/hosts/<name>/   the run of one device: results, measurements.jsonl, machine.json, ...
    out/                all records together, the report over all devices

A device that fails is rows with the reason; the others are measured.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

from kdeploy.bench.model_under_test import Configuration, Outcome
from kdeploy.bench.plan import BenchPlan, Scenario, plan_for
from kdeploy.bench.records import comparisons as compared
from kdeploy.bench.records import measurements
from kdeploy.bench.run import ModelUnderTest, rounds_of
from kdeploy.bench.samples import keep
from kdeploy.bench.ssh.device.files import RUNTIMES
from kdeploy.bench.ssh.hosts import Host
from kdeploy.bench.ssh.job import FORMATS, DeviceGroup, Job, job_of, opens
from kdeploy.bench.ssh.outcomes import outcomes_of
from kdeploy.bench.ssh.ssh_run import Answers, run_over_ssh
from kdeploy.errors import KdeployError, ModelError, RecipeError
from kdeploy.machine import Machine
from kdeploy.measurement import Measurement, write
from kdeploy.pipeline.rundir import write_json, write_reports
from kdeploy.pipeline.session import Session
from kdeploy.report.comparison import Comparison
from kdeploy.report.run_folder import COMMAND
from kdeploy.runtimes.run import named
from kdeploy.system.temporary import temporary_folder

SCENARIO: Scenario = "single_stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Away:
    """What all devices together came to."""

    records: list[Measurement]
    comparisons: list[dict[str, Any]]
    drawn: Comparison


def bench_on_hosts(
    session: Session,
    models: Sequence[ModelUnderTest],
    plan: BenchPlan,
    hosts: Sequence[Host],
    out: Path,
    *,
    baseline: str | None,
) -> Away:
    """Measure on all hosts side by side; the reports and records of each are kept apart, too.

    Raises:
        Unavailable: not one of the hosts could be measured on; the rows with the reasons are
            written.
        ModelError: a file cannot be read.
    """
    _check(hosts, plan, models)
    timed = plan_for(plan, session.reference)
    timed = timed.model_copy(update={"rounds": rounds_of(timed, SCENARIO)})
    # Of a torch artefact the file that was made of it goes; the other runtimes' rows say so.
    files = [model for model in models if model.format in FORMATS]
    with temporary_folder("hosts") as folder:
        job = job_of(files, timed, folder)
        if job.test is not None:
            items, total = len(job.test.items), job.test.total
            session.listener.message(
                f"accuracy on the devices: {items} of {total} test items travel"
            )
        if not session.use_cache:
            for host in hosts:
                shutil.rmtree(folder_of(out, host) / "results", ignore_errors=True)
        ended = _run_on_all(hosts, job, out, session.listener.status)
    for host, end in zip(hosts, ended, strict=True):
        session.listener.message(_outcome_text(host, end))
    return _written(hosts, ended, job, plan, out, baseline=baseline, session=session)


def folder_of(out: Path, host: Host) -> Path:
    """Return where the run of one device is kept."""
    return out / "hosts" / host.slug


def _check(hosts: Sequence[Host], plan: BenchPlan, models: Sequence[ModelUnderTest]) -> None:
    slugs = [host.slug for host in hosts]
    twice = next((s for s in slugs if slugs.count(s) > 1), None)
    if twice is not None:
        raise RecipeError(f"`--host {twice}` is named twice", hint="a device is measured once")
    other = next((s for s in models if s.format not in (*FORMATS, "torch")), None)
    if other is not None:
        raise ModelError(
            f"{other.label} is of format `{other.format}`, and over ssh files of {_listed(FORMATS)}"
            " are measured",
            hint="name the ONNX file, or measure on the device itself with kdeploy there",
        )
    for runtime in plan.runtimes:
        named(runtime, where="the runtimes to measure in")
    if not set(RUNTIMES) & set(plan.runtimes) or SCENARIO not in plan.scenarios:
        raise RecipeError(
            f"over ssh files run in {_listed(RUNTIMES)}, scenario `{SCENARIO}`; that is not asked "
            "for",
            hint=f"add `--runtime {RUNTIMES[0]}` and `--scenario {SCENARIO}`, or leave them out",
        )
    for model in models:
        if model.format != "torch" and not any(opens(r, model.format) for r in plan.runtimes):
            raise RecipeError(
                f"none of the runtimes {_listed(plan.runtimes)} opens {model.label}, a file of "
                f"format `{model.format}`",
                hint=f"add `--runtime {_first_for(model.format)}`",
            )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _first_for(form: str) -> str:
    return next(name for name in RUNTIMES if opens(name, form))


def _run_on_all(
    hosts: Sequence[Host], job: Job, out: Path, watch: Callable[[str], None]
) -> list[Answers | KdeployError]:
    """Return for each host what it brought home, or why it brought nothing."""
    stopping = Event()

    def one(host: Host) -> Answers | KdeployError:
        try:
            return run_over_ssh(
                host,
                job,
                folder_of(out, host) / "results",
                stopping=stopping,
                watch=lambda text: watch(f"{host.name}: {text}"),
            )
        except KdeployError as error:
            return error

    with ThreadPoolExecutor(max_workers=len(hosts)) as pool:
        futures: list[Future[Answers | KdeployError]] = [pool.submit(one, h) for h in hosts]
        try:
            wait(futures)
        finally:  # Ctrl-C: every thread removes what it left on its device
            stopping.set()
    return [future.result() for future in futures]


def _written(
    hosts: Sequence[Host],
    ended: Sequence[Answers | KdeployError],
    job: Job,
    plan: BenchPlan,
    out: Path,
    *,
    baseline: str | None,
    session: Session,
) -> Away:
    records: list[Measurement] = []
    comparisons: list[dict[str, Any]] = []
    with session.files():
        for host, end in zip(hosts, ended, strict=True):
            made = _of_one(host, end, job, plan, out, baseline=baseline)
            records += made[0]
            comparisons += made[1]
        write(records, out / "measurements.jsonl")
        write_json(out / "comparisons.json", comparisons)
        runs = [folder_of(out, host) for host in hosts]
        drawn = write_reports(out, runs=runs, baseline=baseline)
    failures = [end for end in ended if isinstance(end, KdeployError)]
    if len(failures) == len(hosts):
        raise failures[0]
    return Away(records=records, comparisons=comparisons, drawn=drawn)


def _of_one(
    host: Host,
    end: Answers | KdeployError,
    job: Job,
    plan: BenchPlan,
    out: Path,
    *,
    baseline: str | None,
) -> tuple[list[Measurement], list[dict[str, Any]]]:
    """Write the run of one device; return its records and comparisons."""
    folder = folder_of(out, host)
    folder.mkdir(parents=True, exist_ok=True)
    machine, measured = _judged(host, end, job)
    groups = [*measured, *((group, _now()) for group in _not_measured(job, plan))]
    outcomes = [outcome for group, _ in groups for outcome in group]
    keep(outcomes, folder / "samples")
    reference_predictions = next(
        (o.predictions for o in outcomes if o.model.label == baseline), None
    )
    records = [
        # Nobody knows how many cores a device has that never answered.
        replace(record, created=created, threads=record.threads or None)
        for group, created in groups
        for outcome in group
        for record in measurements(
            outcome, machine, reference_predictions=reference_predictions, task=job.task
        )
    ]
    lines = [line for group, _ in groups if baseline for line in compared(group, baseline=baseline)]
    comparisons = [{**line, "machine": machine.id} for line in lines]
    write(records, folder / "measurements.jsonl")
    write_json(folder / "comparisons.json", comparisons)
    if (out / COMMAND).is_file():
        shutil.copyfile(out / COMMAND, folder / COMMAND)
    if not isinstance(end, KdeployError):
        write_json(folder / "machine.json", machine.to_dict())
        (out / "machines").mkdir(exist_ok=True)
        write_json(out / "machines" / f"{machine.id}.json", machine.to_dict())
    return records, comparisons


def _judged(
    host: Host, end: Answers | KdeployError, job: Job
) -> tuple[Machine, list[tuple[list[Outcome], str]]]:
    """Return the machine, and the outcomes of each group with the time when they came home."""
    if isinstance(end, KdeployError):
        nowhere = Machine(id=host.name, cpu="", architecture="", cores=0)
        return nowhere, [(_nothing(job, g, end.message), _now()) for g in job.groups]
    measured = [
        (outcomes_of(file, group, job), _time(file.stat().st_mtime))
        for file, group in end.results.items()
    ]
    lacking = [(_nothing(job, group.on(end.machine), why), _now()) for group, why in end.lacking]
    return end.machine, [*measured, *lacking]


def _now() -> str:
    return _time(time.time())


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _outcome_text(host: Host, end: Answers | KdeployError) -> str:
    if isinstance(end, KdeployError):
        return end.message
    return f"`{host.name}` is {end.machine.cpu}, machine {end.machine.id}"


def _not_measured(job: Job, plan: BenchPlan) -> Iterator[list[Outcome]]:
    """Yield what was asked for and is measured only where kdeploy is installed, or not at all."""
    swept = itertools.product(plan.item_sizes, plan.batch_sizes, plan.threads)
    conditions = [(size, batch_size, threads or 0) for size, batch_size, threads in swept]
    for runtime, scenario in itertools.product(plan.runtimes, plan.scenarios):
        for model in job.models:
            reason = _why_not(runtime, scenario, model)
            for size, batch_size, threads in conditions if reason else ():
                configuration = Configuration(
                    runtime=runtime,
                    batch_size=batch_size,
                    threads=threads,
                    scenario=scenario,
                    size=size,
                )
                yield [Outcome(model=model, configuration=configuration, skipped=reason)]


def _why_not(runtime: str, scenario: str, model: ModelUnderTest) -> str:
    if runtime not in RUNTIMES or scenario != SCENARIO:
        return f"over ssh files run in {_listed(RUNTIMES)}, scenario {SCENARIO}"
    return "" if opens(runtime, model.format) else f"{runtime} does not open {model.format}"


def _nothing(job: Job, group: DeviceGroup, reason: str) -> list[Outcome]:
    """Return the outcomes of a group that was not measured."""
    return [
        Outcome(model=job.models[number], configuration=group.configuration, skipped=reason)
        for number in group.members
    ]
