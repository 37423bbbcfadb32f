"""Do the defaults of distillation win? A panel of pairs, each with nothing chosen by hand.

    python benchmarks/suites/distillation_defaults.py [--epochs 3 10] [--seeds 3] [--only PAIR ...]
        [--arms ARM ...] [--work DIR]

Each pair of `benchmarks/shared/distillation_pairs.py` is trained in five ways for the same epochs
on the same items: by a plain loop (AdamW at 0.003, batches of 64, a cosine to zero); by kdeploy
without a teacher and with one, the recipe saying nothing but the epochs; and both again with the
values that were the defaults before. A sixth way is told what the defaults came to, and makes no
control: what it saves is what the looking costs. Scores are those of
the test part. No epoch was chosen by it, but the defaults were, with one or two seeds on
most pairs that are not marked fresh: for other data expect what the fresh ones say. One line a
training goes to `results/<machine>/distillation_defaults.jsonl`, and one that stands there is not
made again; `--work` holds data, teachers and runs. Writes the table, too.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.shared.distillation_pairs import PAIRS
from benchmarks.shared.pair_parts import preprocessed, section_of
from benchmarks.shared.pair_scores import score_of
from benchmarks.shared.plain_loop import trained_by_hand
from benchmarks.shared.running import (
    Row,
    add_row,
    here,
    parser_of,
    results_folder,
    rows_of,
    table,
)
from kdeploy.pipeline.run import run
from kdeploy.recipe.resolve import parse
from kdeploy.store.artifact import Artifact
from kdeploy.store.model_io import load_model

NAME = "distillation_defaults"
FORMER_TRAINING = {
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "weight_decay": 5e-4,
    "batch_size": 128,
}
FORMER = {
    **FORMER_TRAINING,
    "label_weight": 0.1,
    "losses": [{"kd": {"temperature": 4.0, "weight": 1.0}}],
}
TEACHER_SEED = 1000
HAND, ALONE, TAUGHT = "hand", "undistilled", "distilled"
FORMER_ALONE, FORMER_TAUGHT = "former undistilled", "former distilled"
BARE = "distilled, nothing looked for"


def main() -> None:
    """Train what is missing, write the table."""
    arguments = _arguments()
    file = results_folder(here().cpu) / f"{NAME}.jsonl"
    torch.set_num_threads(arguments.threads)
    arms: dict[str, Callable[..., Row]] = {
        HAND: _by_hand,
        ALONE: lambda *given: _by_kdeploy(*given, training={}),
        TAUGHT: lambda *given: _by_kdeploy(*given, distill={}),
        FORMER_ALONE: lambda *given: _by_kdeploy(*given, training=FORMER_TRAINING),
        FORMER_TAUGHT: lambda *given: _by_kdeploy(*given, distill=FORMER),
        BARE: lambda *given: _by_kdeploy(*given, distill=_as_found(*given[:3], rows_of(file))),
    }
    asked = itertools.product(
        range(arguments.seeds), arguments.epochs, arguments.only or PAIRS, arguments.arms or arms
    )
    for seed, epochs, name, arm in asked:
        key = {"pair": name, "arm": arm, "epochs": epochs, "seed": seed}
        if any(key.items() <= known.items() for known in rows_of(file)):
            continue
        row = _same_training(key, rows_of(file))
        if row is None:
            _teacher_file(name, arguments.work)  # made before the clock runs
            started = time.process_time()
            found = arms[arm](name, epochs, seed, arguments.work)
            row = {**key, **found, "cpu_seconds": round(time.process_time() - started, 2)}
        add_row(file, row)
        print(row, flush=True)
    text = _text(rows_of(file), arguments)
    file.with_suffix(".md").write_text(text)
    print(text)
    sys.exit(0)


def _same_training(key: Row, rows: list[Row]) -> Row | None:
    """Return the row of a pair with the same student and data, where no teacher has a part."""
    if key["arm"] not in (HAND, ALONE, FORMER_ALONE):
        return None
    pair, others = PAIRS[key["pair"]], ("arm", "epochs", "seed")
    for row in rows:
        other = PAIRS[row["pair"]]
        is_same = (pair.data, pair.student) == (other.data, other.student)
        if is_same and all(row[name] == key[name] for name in others):
            return {**row, "pair": key["pair"]}
    return None


def _by_hand(name: str, epochs: int, seed: int, work: Path) -> Row:
    pair, parts = PAIRS[name], preprocessed(PAIRS[name].data, work / "data")
    student = trained_by_hand(
        pair.student(seed=seed), *parts["train"], epochs=epochs, seed=seed, task=pair.task
    )
    return {"score": score_of(student, *parts["test"], task=pair.task)}


def _by_kdeploy(
    name: str,
    epochs: int,
    seed: int,
    work: Path,
    *,
    training: Mapping[str, Any] | None = None,
    distill: Mapping[str, Any] | None = None,
) -> Row:
    """Run a recipe; with `training` the student is trained as a teacher is: on labels alone."""
    pair = PAIRS[name]
    recipe: dict[str, Any] = {"name": "panel", "seed": seed, "task": pair.task}
    recipe["data"] = section_of(pair.data, work / "data")
    if distill is None:
        recipe["teacher"] = {**pair.student.reference(), "train": {"epochs": epochs, **training}}
    else:
        weights = str(_teacher_file(name, work))
        recipe["teacher"] = {**pair.teacher.reference(), "weights": weights}
        recipe["student"] = pair.student.reference()
        recipe["distill"] = {"epochs": epochs, **distill}
    out = work.resolve() / f"run-{os.getpid()}"
    shutil.rmtree(out, ignore_errors=True)
    stage = "teacher" if distill is None else "distill"
    result = run(parse(recipe, folder=work), out, until=stage)
    artifact = result.teacher if distill is None else result.student
    assert artifact is not None
    test = preprocessed(pair.data, work / "data")["test"]
    score = score_of(load_model(artifact), *test, task=pair.task, unit=_unit(artifact))
    return {"score": score, **_told(artifact, out)}


def _unit(artifact: Artifact) -> tuple[Tensor, Tensor] | None:
    """Return the mean and deviation that a model of numbers answers in: of its training part."""
    found = artifact.manifest["data"].get("task", {}).get("found", {})
    if "std" not in found:
        return None
    mean, std = (torch.tensor(found[key], dtype=torch.float32) for key in ("mean", "std"))
    return mean, std


def _told(artifact: Artifact, out: Path) -> Row:
    """Return what the training chose by itself, and what the run says of the teacher's help."""
    scores = {key: artifact.scores[key] for key in ("training",) if key in artifact.scores}
    effect = json.loads((out / "summary.json").read_text()).get("teacher_effect")
    keys = ("difference", "verdict", "after_steps", "teacher_accuracy")
    return {**scores, **({"effect": {key: effect[key] for key in keys}} if effect else {})}


def _as_found(name: str, epochs: int, seed: int, rows: list[Row]) -> dict[str, Any]:
    """Return, as a recipe says it, what the defaults came to: the same without looking for it."""
    key = {"pair": name, "arm": TAUGHT, "epochs": epochs, "seed": seed}
    found = next(row for row in rows if key.items() <= row.items())["training"]
    told = {name: value for name, value in found.items() if name != "range_test"}
    return {**told, "baseline": False}


def _teacher_file(name: str, work: Path) -> Path:
    """Return the teacher's weights, trained by hand where they are not there yet."""
    pair = PAIRS[name]
    asked = repr((pair.teacher, pair.teacher_data or pair.data, pair.teacher_epochs))
    key = hashlib.sha256(f"{asked}, {pair.label_smoothing}".encode()).hexdigest()[:12]
    file = work.resolve() / "teachers" / f"{key}.safetensors"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        teacher = trained_by_hand(
            pair.teacher(seed=TEACHER_SEED),
            *preprocessed(pair.teacher_data or pair.data, work / "data")["train"],
            epochs=pair.teacher_epochs,
            seed=TEACHER_SEED,
            label_smoothing=pair.label_smoothing,
            task=pair.task,
        )
        save_file(teacher.state_dict(), file)
    return file


def _text(rows: list[Row], arguments: argparse.Namespace) -> str:
    """Return the tables, one a budget."""
    machine = here()
    lines = ["# Distillation with defaults: a panel of pairs", ""]
    made = f"{machine.cpu}, {arguments.threads} threads; torch {machine.versions['torch']}"
    lines += [f"`python benchmarks/suites/{NAME}.py`; {made}.", ""]
    lines += [
        "The defaults were chosen on these pairs, but for those that are marked fresh: for other",
        "data expect what these say. Scores are shares of items that are right; of regression R2,",
        "of segmentation the mean intersection over union, both in percent too.",
        "",
    ]
    for epochs in sorted({row["epochs"] for row in rows}):
        lines += _budget([row for row in rows if row["epochs"] == epochs], epochs)
    return "\n".join(lines).rstrip() + "\n"


def _budget(rows: list[Row], epochs: int) -> list[str]:
    arms = (HAND, ALONE, TAUGHT, FORMER_ALONE, FORMER_TAUGHT)
    found = {
        (name, arm): {r["seed"]: r["score"] for r in rows if (r["pair"], r["arm"]) == (name, arm)}
        for name in PAIRS
        for arm in arms
    }
    header = " | ".join(["pair", *arms, "distilled - undistilled", "- hand", "undistilled - hand"])
    pairs = ((TAUGHT, ALONE), (TAUGHT, HAND), (ALONE, HAND))
    cells = [
        [
            f"{name} (fresh)" if PAIRS[name].is_fresh else name,
            *(_mean(found[name, arm].values()) for arm in arms),
            *(_difference(found[name, a], found[name, b]) for a, b in pairs),
        ]
        for name in PAIRS
        if any(found[name, arm] for arm in arms)
    ]
    lines = [f"## {epochs} epochs", ""]
    lines += table(header, cells, right=range(1, 9))
    lines += [""]
    for a, b in pairs:
        for is_fresh, which in ((False, "pairs"), (True, "fresh pairs")):
            names = [name for name, pair in PAIRS.items() if pair.is_fresh == is_fresh]
            differences = (_mean_difference(found[name, a], found[name, b]) for name in names)
            means = [difference for difference in differences if difference is not None]
            if means:
                mean, least = statistics.mean(means), min(means)
                among = f"{len(means)} {which}, the least {least:+.2f} pp"
                lines.append(f"- {a} - {b}: {mean:+.2f} pp over {among}.")
    lines += _costs(rows) + _sentences(rows)
    return [*lines, ""]


def _costs(rows: list[Row]) -> list[str]:
    """Return what range test and control cost of the processor, beside the same training."""
    spent: dict[tuple[str, int], dict[str, float]] = {}
    for row in rows:
        if row["arm"] in (TAUGHT, BARE) and "cpu_seconds" in row:
            spent.setdefault((row["pair"], row["seed"]), {})[row["arm"]] = row["cpu_seconds"]
    both = [found for found in spent.values() if len(found) == 2]
    if not both:
        return []
    whole, bare = (sum(found[arm] for found in both) for arm in (TAUGHT, BARE))
    shares = [found[TAUGHT] / found[BARE] - 1 for found in both]
    return [
        f"- Range test and control: {whole / bare - 1:+.1%} processor time over {len(both)} "
        f"trainings, the median {statistics.median(shares):+.1%}, the most {max(shares):+.1%}."
    ]


def _sentences(rows: list[Row]) -> list[str]:
    """Return how often the control's verdict agrees in sign with the end on the test part."""
    ends: dict[tuple[str, int], dict[str, Row]] = {}
    for row in rows:
        ends.setdefault((row["pair"], row["seed"]), {})[row["arm"]] = row
    verdicts = []
    for found in ends.values():
        if ALONE in found and "effect" in found.get(TAUGHT, {}):
            gain = found[TAUGHT]["score"] - found[ALONE]["score"]
            verdicts.append((found[TAUGHT]["effect"]["verdict"], gain > 0))
    if not verdicts:
        return []
    said = ", ".join(
        f"{name} {sum(v == name for v, _ in verdicts)} (at the end better in "
        f"{sum(v == name and is_better for v, is_better in verdicts)})"
        for name in ("helped", "no difference", "hurt")
    )
    return [f"- The control after its part of the steps said: {said}."]


def _mean(values: Any) -> str:
    values = list(values)
    return f"{100 * statistics.mean(values):.1f} % ({len(values)})" if values else ""


def _mean_difference(a: Mapping[int, float], b: Mapping[int, float]) -> float | None:
    both = a.keys() & b.keys()
    return 100 * statistics.mean(a[seed] - b[seed] for seed in both) if both else None


def _difference(a: Mapping[int, float], b: Mapping[int, float]) -> str:
    """Return the mean difference over the seeds that both have, and its standard error."""
    mean = _mean_difference(a, b)
    if mean is None:
        return ""
    each = [100 * (a[seed] - b[seed]) for seed in a.keys() & b.keys()]
    if len(each) < 2:
        return f"{mean:+.1f}"
    return f"{mean:+.1f} +- {statistics.stdev(each) / math.sqrt(len(each)):.1f}"


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__ or "", work=NAME, only=PAIRS)
    parser.add_argument("--epochs", type=int, nargs="+", default=[10])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="*", help="these ways of training")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
