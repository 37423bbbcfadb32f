"""What is read in an answer against what was recorded: told where it differs, near ties aside."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

SEED = np.random.default_rng(3)


def numbers(*shape):
    return SEED.standard_normal(shape).astype(np.float32) * 3


CASES = {
    "ctc": (numbers(1, 9, 5), {}, {"blank": 0, "alphabet": "abcd"}),
    "embedding": (numbers(1, 6), {}, {}),
    "keypoint_heatmaps": (numbers(1, 4, 5, 7), {}, {"size": [20, 28]}),
    "multi_label": (numbers(1, 5), {"threshold": 0.3}, {"labels": list("abcde")}),
    "segmentation": (numbers(1, 3, 4, 5), {}, {"size": [7, 9], "classes": ["a", "b", "c"]}),
    "tokens": (numbers(1, 6, 3), {}, {"classes": ["a", "b", "c"]}),
}
TOLD = {
    "ctc": "is read in place of",
    "embedding": "the cosine to the recorded vector is",
    "keypoint_heatmaps": "cells away",
    "multi_label": "read",
    "segmentation": "of the pixels keep their class",
    "tokens": "token 0 is",
}
TIED = {name: x for name, x in CASES.items() if name not in ("embedding", "multi_label")}


def told(name, own, recorded, atol=0.01):
    _, parameters, found = CASES[name]
    decode = importlib.import_module(f"kdeploy.tasks.decoding.{name}")
    task = {"name": name, "parameters": parameters, "found": found}
    return decode.disagreement({"out": own}, {"out": recorded}, task, atol)


@pytest.mark.parametrize("name", CASES)
def test_the_same_answer_and_one_within_the_tolerance_agree(name):
    recorded = CASES[name][0]
    assert told(name, recorded, recorded) == ""
    noise = SEED.uniform(-0.01, 0.01, recorded.shape).astype(np.float32)
    assert told(name, recorded + noise, recorded) == ""


@pytest.mark.parametrize("name", CASES)
def test_another_answer_is_told(name):
    recorded = CASES[name][0]
    assert TOLD[name] in told(name, -recorded, recorded)


@pytest.mark.parametrize("name", TIED)
def test_what_lies_within_the_tolerance_proves_nothing(name):
    recorded = CASES[name][0]
    assert told(name, -recorded, recorded, atol=100.0) == ""


def test_a_label_beside_the_threshold_may_be_decided_either_way():
    recorded = np.array([[-0.8473, 2.0, -2.0, 2.0, 2.0]], np.float32)  # 0.3 is at -0.8473
    moved = recorded + np.array([[0.005, 0, 0, 0, 0]], np.float32)
    assert told("multi_label", moved, recorded) == ""
    far = recorded + np.array([[0, 0, 5, 0, 0]], np.float32)
    assert told("multi_label", far, recorded) == "`c` is read"
