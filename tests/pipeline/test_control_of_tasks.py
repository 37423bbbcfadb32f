"""The control of a distillation learns what the task's labels say, whatever the task is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdeploy.pipeline.run import run
from kdeploy.recipe.resolve import parse
from tests.tiny.tasks import ALPHABET, arrays_of

BUILD = Path(__file__).parents[1] / "tiny" / "tasks.py"
MODELS = {
    "regression": ("vector", 2, "R2"),
    "segmentation": ("dense", 3, "pixels"),
    "multi_label": ("vector", 3, "labels"),
    "keypoint_heatmaps": ("dense", 2, "keypoints"),
    "ctc": ("frames", len(ALPHABET) + 1, "whole texts"),
    "tokens": ("words", 3, ""),
    "detection": ("heads", 2, "images' average precision"),
    "embedding": ("vector", 8, "nearest neighbours"),
}


@pytest.mark.parametrize("task", MODELS)
def test_it_says_in_the_words_of_the_task_whether_the_teacher_helped(task, tmp_path):
    build, outputs, words = MODELS[task]
    for part, seed in (("train", 0), ("test", 1)):
        x, y = arrays_of(task, seed=seed)
        np.savez(tmp_path / f"{part}.npz", x=x, y=y)
    data = {"name": "arrays", "train": "train.npz", "test": "test.npz"}
    if task == "tokens":
        data["vocabulary"] = 12
    recipe = {
        "name": "control",
        "task": {"ctc": {"alphabet": ALPHABET}} if task == "ctc" else task,
        "data": data,
        "teacher": {"build": f"{BUILD}:{build}", "args": {"outputs": outputs}},
        "student": {"build": f"{BUILD}:{build}", "args": {"outputs": outputs, "width": 4}},
        "distill": {"epochs": 2, "precision": "fp32"},
    }
    recipe["teacher"]["train"] = {"epochs": 1, "precision": "fp32"}
    effect = run(parse(recipe, folder=tmp_path), tmp_path / "run", until="distill").effect
    assert effect is not None
    assert effect.scores == words
    assert effect.difference.n > 0
    assert (f"pp of {words} (" if words else "pp (") in effect.sentence
