"""The best candidate as a run of its own: whole, packaged, and in a folder that stands alone."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kdeploy.bench.ssh.hosts import parse_host
from kdeploy.gate import Gate
from kdeploy.pipeline.exported import Exported
from kdeploy.pipeline.log import RunListener
from kdeploy.pipeline.run import RunResult
from kdeploy.pipeline.run import run as run_recipe
from kdeploy.pipeline.rundir import write_text
from kdeploy.pipeline.side_by_side import bench_side_by_side
from kdeploy.recipe.read import to_yaml
from kdeploy.recipe.resolve import Recipe, parse
from kdeploy.search.candidate import DEVICE
from kdeploy.search.constraints import is_known_before_training
from kdeploy.search.elastic import beginning_with
from kdeploy.search.finalists import Finalists
from kdeploy.search.settings import RECIPE, STORE, Settings
from kdeploy.search.trials import read_trials
from kdeploy.store.artifact import Store, open_artifact
from kdeploy.system.machine_turns import timing

BEST, START = "best", "start.safetensors"
SAME_ANYWHERE = ("size", "parameters", "macs")
"""What a file has on every machine, of what is known before training."""


def choose_best(settings: Settings, finalists: Finalists, listener: RunListener) -> bool:
    """Write the best one's run, with its bundle, into `best/`; return whether it passes."""
    if finalists.best is None:
        listener.message(f"no best recipe: {finalists.because}")
        return False
    trial = next(f for f in finalists.finalists if f.number == finalists.best)
    listener.message(f"best: trial {trial.number}, {finalists.because}")
    folder = settings.out / BEST
    points = {t.number: t.parameters for t in read_trials(settings.out)}
    document = settings.space.document(points[trial.number])
    document.setdefault("package", {})
    _link_store(folder)
    if trial.begins_with is not None:
        start = folder / START
        shutil.copyfile(trial.begins_with, start)
        document = beginning_with(document, str(start.resolve()))
    recipe = parse(document, folder=settings.space.folder)
    there = [g for g in recipe.gates if settings.host and _is_of_the_device(g)]
    here = replace(recipe, gates=tuple(g for g in recipe.gates if g not in there))
    with timing():
        result = run_recipe(here, folder, listener=listener)
    if result.failures:
        raise result.failures[0].error
    passed = result.passed
    if settings.host is not None:
        write_text(folder / RECIPE, to_yaml(recipe, written_in=folder))
        passed &= _holds_there(recipe, settings.host, result, there, listener)
    _copy_store(folder, [stage["artifact"] for stage in result.summary["stages"]])
    return passed


def _is_of_the_device(gate: Gate) -> bool:
    return is_known_before_training(gate.metric) and gate.metric not in SAME_ANYWHERE


def _holds_there(
    recipe: Recipe, host: str, result: RunResult, gates: Sequence[Gate], listener: RunListener
) -> bool:
    """Measure what was chosen beside the teacher on the device; return whether its gates hold."""
    assert result.chosen is not None, "a finalist has a file"
    teacher = _file_like(result.chosen, result)
    measured = bench_side_by_side(
        [str(result.chosen.file.folder)],
        recipe.bench.model_copy(update={"accuracy": False}),
        result.out / DEVICE,
        baseline=str(teacher.file.folder),
        gates=gates,
        data=recipe.data,
        hosts=[parse_host(host)],
        listener=listener,
    )
    for verdict in measured.verdicts:
        word = "holds" if verdict.passed else "fails"
        listener.message(f"`{verdict.gate}` {word} on {host}: {verdict.reason}")
    return all(v.passed for v in measured.verdicts)


def _file_like(chosen: Exported, result: RunResult) -> Exported:
    """Return the teacher's file of the format of the chosen one."""
    own = [e for e in result.exported if e.model.id == result.teacher.id]
    return next((e for e in own if e.file.kind == chosen.file.kind), own[0])


def _link_store(folder: Path) -> None:
    """Let the run find what the search has made; a copy of an earlier best one goes."""
    store = folder / STORE
    folder.mkdir(exist_ok=True)
    if store.is_dir() and not store.is_symlink():
        shutil.rmtree(store)
    if not store.is_symlink():
        store.symlink_to(Path("..") / STORE)


def _copy_store(folder: Path, artifacts: Sequence[str]) -> None:
    """Put the artefacts of the run in place of the link: the folder may be moved, and sent."""
    copy = folder / f".{STORE}"
    shutil.rmtree(copy, ignore_errors=True)  # of a search that was killed
    own = Store(root=copy)
    for identity in artifacts:
        own.adopt(open_artifact(folder / STORE / identity))
    shutil.rmtree(copy / ".locks", ignore_errors=True)
    (folder / STORE).unlink()
    copy.rename(folder / STORE)
