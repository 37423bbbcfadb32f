"""The README of a bundle tells a user on a device what to type and what it costs."""

from __future__ import annotations

import shlex

import numpy as np


def test_it_names_the_numbers_the_budgets_and_the_lineage(make_bundle, tmp_path):
    bundle = make_bundle(
        tmp_path / "bundle",
        budgets=["peak_memory: <= 128MB", "accuracy.top1: >= 0.8"],
        accuracy={
            **{"accuracy.top1": 0.9, "latency.p50": 4.4e-5, "n": 450},
            "baseline": {"accuracy.top1": 0.95},
        },
        chosen_because="it is faster than the INT8 file",
    )
    text = (bundle / "README.md").read_text()
    for part in (
        "90.00 %",
        "44 µs",
        "| n | 450 |",
        "baseline | 95.00 %",
        "`peak_memory: <= 128MB`",
        "teacher",
        "circle",
    ):
        assert part in text
    assert "Why this file: it is faster than the INT8 file" in text
    assert "None were set" not in text


def test_it_says_when_the_latency_was_not_measured(make_bundle, tmp_path):
    bundle = make_bundle(tmp_path / "bundle", accuracy={"accuracy.top1": 0.9})
    assert "| latency.p50 | not measured before: the self-test tells |" in (
        (bundle / "README.md").read_text()
    )


def test_its_commands_run(pristine, run_runner, tiny, tmp_path):
    np.save(tmp_path / "items.npy", tiny.stored)
    text = (pristine / "README.md").read_text()
    lines = [line.strip() for line in text.splitlines() if "run.py" in line and line[0] == " "]
    assert len(lines) == 3
    for line in lines:
        _, _, *given = shlex.split(line)
        if "photo.png" not in given:
            assert run_runner(pristine, *given, cwd=tmp_path).returncode == 0
