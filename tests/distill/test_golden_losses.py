"""Every loss gives the number that it gave: `golden/<loss>.json`, one for each that is registered.

Tests only read these files. For a new loss, or a change that is meant, copy what the failure
prints; a change that is not meant is a bug.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from kdeploy.registry import techniques
from tests.distill.loss_calls import called, example, gradients

GOLDEN = Path(__file__).parent / "golden"
LOSSES = techniques("loss")
KEYS = {"value", "gradient_norm"}


def found(technique):
    """Return what the loss gives at its defaults on the one example."""
    student, teacher, labels = example(technique)
    value = called(technique, student, teacher, labels)
    value.backward()
    return {"value": value.item(), "gradient_norm": gradients(student).norm().item()}


def to_copy(name, values):
    return f"\nif this is meant, {GOLDEN.name}/{name}.json is\n{json.dumps(values, indent=2)}\n"


@pytest.mark.parametrize("name", LOSSES)
def test_gives_what_it_gave(name):
    values, path = found(LOSSES[name]), GOLDEN / f"{name}.json"
    assert path.exists(), to_copy(name, values)
    golden = json.loads(path.read_text())
    assert golden.keys() == KEYS, to_copy(name, values)
    assert all(map(math.isfinite, golden.values())), to_copy(name, values)
    assert values == pytest.approx(golden, rel=1e-4), to_copy(name, values)


def test_there_is_no_golden_value_without_its_loss():
    assert {path.name for path in GOLDEN.iterdir()} - {f"{name}.json" for name in LOSSES} == set()
