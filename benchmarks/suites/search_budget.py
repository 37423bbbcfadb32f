"""Equal seconds: `kdeploy search`, and random search and TPE that train every candidate.

    python -m benchmarks.suites.search_budget [--tasks digits series masks] [--seeds 3] [--work DIR]

The two others propose from the same space, train each candidate to the end, share no step between
candidates but the teacher (what the store spared them is added to their time), and look at no size
before training. Random search makes a fixed number of candidates; what it took is the budget of all
three. Covered is the volume over error, logarithm of p50 and logarithm of size of the candidates
within the gate on size, below what is worst among all that were measured for the task and seed;
everything is of the validation part. Seconds are of the wall, so a busy machine shows as noise.
Trials lie in the work folder: a search that was interrupted goes on. Exits 1 where ours needs more
than half of random search's seconds for what that covered in the end, in the median of a task.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from benchmarks.shared.running import Row, conclude, conditions, here, parser_of, table
from kdeploy.search.evaluation import Candidate, Evaluation
from kdeploy.search.front import Costs, costs, hypervolume
from kdeploy.search.run import Budget, search
from kdeploy.search.settings import settings_of
from kdeploy.search.trials import Trial
from kdeploy.units import format_seconds

MODELS = Path(__file__).parents[2] / "models"
OBJECTIVES = ["accuracy.top1", "latency.p50", "size"]
BENCH = {"runtimes": ["onnxruntime_cpu"], "threads": [1], "minimum_seconds": 0.1}
INT8: Row = {"choice": [{"int8_ptq": {}}, None]}
HALF = 0.5
"""Of random search's seconds, that ours may take to cover as much."""
ENOUGH = 1000
"""Candidates: where seconds are the budget."""
OURS, RANDOM, TPE = "kdeploy search", "random search", "Optuna's TPE"
ARMS = (OURS, RANDOM, TPE)
NAIVE = {RANDOM: "random", TPE: "tpe"}


def _pruned(*, epochs: int) -> Row:
    shares = [{"ratio": ratio, "recover": {"epochs": epochs}} for ratio in (0.25, 0.5)]
    return {"choice": [*({"prune_channels": share} for share in shares), None]}


RESNET = str(MODELS / "digits/build.py:resnet")
DIGITS: Row = {
    "name": "digits-budget",
    "data": {"name": "digits", "size": 8, "validation_fraction": 0.2},
    "teacher": {
        "build": RESNET,
        "args": {"width": 16, "depth": 1},
        "train": {"epochs": 12, "learning_rate": 0.1, "schedule": "one_cycle", "batch_size": 64},
    },
    "student": {"build": RESNET, "args": {"width": 8, "depth": 1}},
    "distill": {"epochs": 16, "batch_size": 64, "learning_rate": 0.1, "schedule": "one_cycle"},
    "compress": [{"prune_channels": {"ratio": 0.3}}, {"int8_ptq": {}}],
    "gates": ["size: <= 80KB"],
    "search": {
        "space": {
            "student.args.width": {"choice": [4, 6, 8, 12, 16, 24]},
            "student.args.depth": {"choice": [1, 2]},
            "distill.learning_rate": {"range": [0.003, 0.3], "log": True},
            "distill.losses": {"choice": [["dist"], ["kd"], []]},
            "compress.0": _pruned(epochs=4),
            "compress.1": INT8,
        },
    },
}
SERIES: Row = {
    "name": "series-budget",
    "data": {"name": "ucr", "problem": "JapaneseVowels_eq", "validation_fraction": 0.3},
    "teacher": {
        "build": str(MODELS / "time_series/build.py:fcn"),
        "args": {"width": 32},
        "train": {"epochs": 20, "batch_size": 16, "optimizer": "adamw", "learning_rate": 0.002},
    },
    "student": {"build": str(MODELS / "time_series/build.py:fcn"), "args": {"width": 16}},
    "distill": {"epochs": 40, "batch_size": 16, "optimizer": "adamw", "schedule": "one_cycle"},
    "compress": [{"prune_channels": {"ratio": 0.3}}, {"int8_ptq": {}}],
    "gates": ["size: <= 60KB"],
    "search": {
        "space": {
            "student.args.width": {"choice": [4, 8, 16, 24, 32, 48]},
            "distill.learning_rate": {"range": [0.0005, 0.05], "log": True},
            "distill.losses": {"choice": [["dist"], ["kd"], []]},
            "compress.0": _pruned(epochs=10),
            "compress.1": INT8,
        },
    },
}
MASKS: Row = {
    "name": "masks-budget",
    "task": "segmentation",
    "data": {"name": str(MODELS / "detect_objects/scenes.py:masks"), "train": 1200, "test": 100},
    "teacher": {
        "build": str(MODELS / "segment_objects/build.py:segmenter"),
        "args": {"width": 20, "depth": 2},
        "weights": str(MODELS / "segment_objects/teacher.safetensors"),
    },
    "student": {"build": str(MODELS / "segment_objects/build.py:separable")},
    "distill": {"epochs": 16, "batch_size": 32, "optimizer": "adamw", "schedule": "one_cycle"},
    "compress": [{"int8_ptq": {}}],
    "gates": ["size: <= 120KB"],
    "search": {
        "objectives": ["segmentation.miou", "latency.p50", "size"],
        "space": {
            "student.args.width": {"choice": [6, 8, 12, 16, 24, 32]},
            "student.args.depth": {"choice": [1, 2]},
            "distill.learning_rate": {"range": [0.0005, 0.02], "log": True},
            "distill.losses": {"choice": [["pixel_kd"], ["dist"], []]},
            "compress.0": INT8,
        },
    },
}
TASKS = {"digits": (DIGITS, 14), "series": (SERIES, 12), "masks": (MASKS, 8)}
"""By name, the recipe and how many candidates random search makes."""


class Naive(Evaluation):
    """Trains every candidate to the end, and measures it then."""

    def batch(self, candidates: Sequence[Candidate], history: Sequence[Trial]) -> list[Trial]:
        if not history:
            self.known_seconds.clear()  # the teacher's: that all three share
        self._make(candidates, "whole")
        self._judge(candidates)
        for candidate in candidates:
            self.known_seconds.update(candidate.steps)
        return [c.trial(self.known_seconds) for c in candidates]


def main() -> None:
    """Search three times a task and seed, and write what was covered when."""
    parser = parser_of(__doc__ or "", work="search_budget")
    parser.add_argument("--tasks", nargs="*", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=3, help="of digits; the others have one")
    parser.add_argument("--candidates", type=int, help="of random search, in place of the usual")
    arguments = parser.parse_args()
    rows = [
        _compared(task, seed, arguments.candidates or TASKS[task][1], arguments.work)
        for task in arguments.tasks
        for seed in range(arguments.seeds if task == "digits" else 1)
    ]
    medians = {
        task: statistics.median(r["share"] for r in rows if r["task"] == task)
        for task in arguments.tasks
    }
    text = _text(rows, medians)
    holds = all(share <= HALF for share in medians.values())
    conclude("search_budget", {"rows": rows, "medians": medians}, text, holds=holds)


def _compared(task: str, seed: int, candidates: int, work: Path) -> Row:
    recipe = TASKS[task][0]
    objectives = recipe["search"].get("objectives", OBJECTIVES)
    limit = float(recipe["gates"][0].removeprefix("size: <= ").removesuffix("KB")) * 1000
    random = _trials(recipe, RANDOM, seed, work, Budget(trials=candidates))
    seconds = sum(map(_cost_of_naive, random))
    budget = Budget(trials=ENOUGH, hours=seconds / 3600)
    courses = {
        RANDOM: _course(random, objectives, limit, is_naive=True),
        TPE: _course(
            _trials(recipe, TPE, seed, work, Budget(trials=candidates)),
            objectives,
            limit,
            is_naive=True,
        ),
        OURS: _course(_trials(recipe, OURS, seed, work, budget), objectives, limit, is_naive=False),
    }
    every = [point for course in courses.values() for _, point in course]
    worst = tuple(max(values) + 1e-9 for values in zip(*every, strict=True))
    final = {name: _covered(course, worst, seconds) for name, course in courses.items()}
    reached = _reached(courses[OURS], worst, final[RANDOM])
    return {
        "task": task,
        "seed": seed,
        "seconds": round(seconds, 1),
        "candidates": {name: len(course) for name, course in courses.items()},
        "covered": final,
        "share": reached / seconds,
    }


def _trials(recipe: Row, arm: str, seed: int, work: Path, budget: Budget) -> list[Trial]:
    section = {**recipe["search"], "seed": seed, "finalists": 1, "seeds": 1}
    if arm in NAIVE:
        section["sampler"] = NAIVE[arm]
    given = {**recipe, "seed": seed, "bench": BENCH, "search": section}
    out = work / recipe["name"] / f"{arm.replace(' ', '-')}-{seed}"
    settings = settings_of(given, folder=Path.cwd(), out=out)
    how = Naive if arm in NAIVE else Evaluation
    with mock.patch("kdeploy.search.run.Evaluation", how):
        found = search(settings, budget).trials
    print(f"{out}: {len(found)} trials in {sum(t.seconds for t in found):.0f} s", flush=True)
    return found


def _cost_of_naive(trial: Trial) -> float:
    return trial.seconds + trial.saved_seconds


def _course(
    trials: Sequence[Trial], objectives: Sequence[str], limit: float, *, is_naive: bool
) -> list[tuple[float, Costs]]:
    """Return what is complete and within the gate, and after how many seconds it was known."""
    elapsed, course = 0.0, []
    for trial in trials:
        elapsed += _cost_of_naive(trial) if is_naive else trial.seconds
        point = costs(trial.values, objectives)
        if trial.state == "complete" and point is not None and trial.values["size"] <= limit:
            course.append((elapsed, point))
    return course


def _covered(course: list[tuple[float, Costs]], worst: Costs, seconds: float) -> float:
    return hypervolume([point for at, point in course if at <= seconds], worst)


def _reached(course: list[tuple[float, Costs]], worst: Costs, volume: float) -> float:
    """Return after how many seconds as much is covered; infinity where it never is."""
    return next((at for at, _ in course if _covered(course, worst, at) >= volume), math.inf)


def _text(rows: list[Row], medians: dict[str, float]) -> str:
    cells = [
        (
            row["task"],
            str(row["seed"]),
            format_seconds(row["seconds"]),
            *(f"{row['covered'][name]:.3f} ({row['candidates'][name]})" for name in ARMS),
            _share(row["share"]),
        )
        for row in rows
    ]
    shown = ", ".join(f"{task} {_share(share)}" for task, share in medians.items())
    lines = [
        "# The same seconds: our search, random search, Optuna's TPE",
        "",
        conditions(here(), 1),
        "",
        "What is covered of error, log10 of p50 and log10 of size after random search's seconds, "
        "and in brackets how many candidates were trained to the end within the gate on size.",
        "",
        *table(
            f"task | seed | seconds | {' | '.join(ARMS)} | ours as far as random search after",
            cells,
            right=range(1, 7),
        ),
        "",
        f"Medians of the last column: {shown}; asked: {HALF:.0%} or less. The two others train "
        "each candidate to the end and share no step but the teacher.",
        "",
        "Command: `python -m benchmarks.suites.search_budget`",
        "",
    ]
    return "\n".join(lines)


def _share(share: float) -> str:
    return "never" if math.isinf(share) else f"{share:.0%}"


if __name__ == "__main__":
    main()
