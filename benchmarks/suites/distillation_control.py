"""Does the control say what is so? Thirty distillations of which the answer is planted.

    python benchmarks/suites/distillation_control.py [--seeds 10] [--work DIR]

A small convolutional student of scikit-learn's digits, twenty epochs. *Helps*: three of four
labels of the training part are drawn by lot, and the teacher knows the truth. *Does nothing*: the
teacher's answers are the labels themselves. *Hurts*: the teacher learned each digit as the next
one. After a tenth of the steps the control has to say so, from 447 validation items with true
labels. Writes `distillation_control.{json,md}`; ends with 1 where fewer than 28 of 30 are right.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from benchmarks.shared.distillation_pairs import Network
from benchmarks.shared.plain_loop import trained_by_hand
from benchmarks.shared.running import Row, conclude, parser_of, table
from kdeploy.data.load import DataReference, load
from kdeploy.pipeline.run import run
from kdeploy.recipe.resolve import parse

TEACHER = Network(build="convolutional", args={"width": 16, "depth": 1})
STUDENT = Network(build="convolutional", args={"width": 8, "depth": 1})
TRAIN_ITEMS = 900
NOISE = 0.75
"""Of the labels that are drawn anew where the teacher is to help."""
CERTAIN = 100.0
"""The factor of logits that makes of an answer a label."""
TEACHER_EPOCHS = 15
EPOCHS = 20
WEIGHTS = {"losses": [{"kd": {"temperature": 1.0, "weight": 1.0}}]}
PLANTED: dict[str, Row] = {
    "helped": {"labels": "noisy", "teacher": "true", "label_weight": 0.1},
    "no difference": {"labels": "true", "teacher": "certain", "label_weight": 1.0},
    "hurt": {"labels": "true", "teacher": "next", "label_weight": 0.1},
}
"""By the verdict that is right."""
RIGHT_AT_LEAST = 28 / 30


def main() -> None:
    """Run the cases, count the sentences that are right."""
    parser = parser_of(__doc__ or "", work="distillation_control")
    parser.add_argument("--seeds", type=int, default=10, help="cases of each kind")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    parts = _parts()
    teachers = {name: _teacher(name, parts, work) for name in ("true", "next", "certain")}
    rows = [
        {"planted": verdict, "seed": seed, **_said(case, teachers, parts, seed, work)}
        for seed in range(arguments.seeds)
        for verdict, case in PLANTED.items()
    ]
    is_right = [row["verdict"] == row["planted"] for row in rows]
    conclude(
        "distillation_control",
        {"cases": rows},
        _text(rows, is_right),
        holds=sum(is_right) >= RIGHT_AT_LEAST * len(rows),
    )


def _parts() -> dict[str, tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Return the digits as networks get them: train, validation and test."""
    data = load(DataReference(name="digits", validation_fraction=0.01))
    x = np.concatenate([data.train.x, data.validation.x])
    y = np.concatenate([data.train.y, data.validation.y])
    cut = {"train": slice(TRAIN_ITEMS), "validation": slice(TRAIN_ITEMS, None)}
    parts = {name: (x[rows], y[rows]) for name, rows in cut.items()}
    parts["test"] = (np.array(data.test.x), np.array(data.test.y))
    return {name: (data.preprocessing.apply(x), y) for name, (x, y) in parts.items()}


def _teacher(name: str, parts: Any, work: Path) -> Path:
    """Return the weights of a teacher that tells the truth, is certain of it, or is one off."""
    x, y = (torch.from_numpy(part) for part in parts["train"])
    if name == "next":
        y = (y + 1) % 10
    model = trained_by_hand(TEACHER(seed=1), x, y, epochs=TEACHER_EPOCHS, seed=1)
    if name == "certain":
        head = model[-1]
        assert isinstance(head, nn.Linear), "the network ends with its classes"
        with torch.no_grad():
            head.weight.mul_(CERTAIN)
            head.bias.mul_(CERTAIN)
    file = work / f"teacher-{name}.safetensors"
    save_file(model.state_dict(), file)
    return file


def _said(case: Row, teachers: dict[str, Path], parts: Any, seed: int, work: Path) -> Row:
    """Distil, and return what the control says of it."""
    data: Row = {"name": "arrays"}
    random = np.random.default_rng(seed)
    for name, (x, y) in parts.items():
        if name == "train" and case["labels"] == "noisy":
            y = np.where(random.random(len(y)) < NOISE, random.integers(10, size=len(y)), y)
        # A name of its own: data are read once in a process.
        data[name] = str(work / f"{name}-{case['labels']}-{seed}.npz")
        np.savez(data[name], x=x, y=y)
    recipe = {
        "name": "planted",
        "seed": seed,
        "data": {**data, "normalize": False},
        "teacher": {**TEACHER.reference(), "weights": str(teachers[case["teacher"]])},
        "student": STUDENT.reference(),
        "distill": {"epochs": EPOCHS, "label_weight": case["label_weight"], **WEIGHTS},
    }
    out = work / "run"
    shutil.rmtree(out, ignore_errors=True)
    effect = run(parse(recipe, folder=work), out, until="distill").summary["teacher_effect"]
    kept = ("verdict", "sentence", "difference", "after_steps", "of_steps")
    return {key: effect[key] for key in kept}


def _text(rows: list[Row], is_right: list[bool]) -> str:
    cells = [
        [row["planted"], str(row["seed"]), row["sentence"], "yes" if right else "no"]
        for row, right in zip(rows, is_right, strict=True)
    ]
    lines = ["# What the control says where the answer is planted", ""]
    command = f"`python benchmarks/suites/{Path(__file__).name}`"
    lines += [f"{command}: {sum(is_right)} of {len(rows)} are right.", ""]
    return "\n".join([*lines, *table("planted | seed | said | right", cells)]) + "\n"


if __name__ == "__main__":
    main()
