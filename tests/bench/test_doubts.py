from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from kdeploy.bench import doubts, rounds, surroundings
from kdeploy.flags import FLAGS
from kdeploy.machine import Machine
from kdeploy.runtimes.contract import Proof


def _machine(**facts):
    return Machine(id="m", cpu="c", architecture="x86_64", cores=2, **facts)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"is_virtual": True}, ("virtual_machine",)),
        ({"is_virtual": False, "governor": "performance"}, ()),
        ({"governor": "powersave"}, ("governor",)),
        ({}, ()),
    ],
)
def test_machines_are_doubted_for_what_they_are(facts, expected):
    assert doubts.of_machine(_machine(**facts)) == expected


def test_steady_samples_raise_no_doubt():
    samples = np.random.default_rng(0).normal(1e-3, 1e-6, 2000)
    assert doubts.of_samples([samples], is_steady=True) == ()


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda s: s * np.linspace(1, 1.2, len(s)), "unstable"),
        (lambda s: np.where(np.arange(len(s)) % 50 == 0, 1.0, s), "outliers"),
        (lambda s: s / 1000, "timer_resolution"),
    ],
)
def test_spoilt_samples_raise_theirs(spoil, expected):
    samples = np.random.default_rng(0).normal(1e-3, 1e-6, 2000)
    assert doubts.of_samples([spoil(samples)], is_steady=True) == (expected,)


def test_a_warm_up_that_never_settled_is_unstable():
    samples = np.random.default_rng(0).normal(1e-3, 1e-6, 2000)
    assert doubts.of_samples([samples], is_steady=False) == ("unstable",)


def test_int8_without_an_integer_operator_is_a_failure_flag():
    nothing = Proof(provider="p", eligible=3, integer=0, is_quantized=True)
    some = Proof(provider="p", eligible=3, integer=1, is_quantized=True)
    plain = Proof(provider="p", eligible=3, integer=0)
    assert doubts.of_proof(nothing) == ("no_op_int8",)
    assert doubts.of_proof(some) == doubts.of_proof(plain) == doubts.of_proof(None) == ()


def test_a_p99_needs_a_thousand_samples():
    assert doubts.of_count("latency.p99", 999) == ("few_samples",)
    assert doubts.of_count("latency.p99", 1000) == ()
    assert doubts.of_count("latency.p50", 999) == ()


def test_a_slow_first_batch_is_one_unlike_the_rest():
    assert doubts.of_first(0.011, 0.001) == ("slow_first_run",)
    assert doubts.of_first(0.009, 0.001) == ()


def test_every_flag_that_is_raised_is_explained():
    sources = "".join(Path(m.__file__).read_text() for m in (doubts, rounds, surroundings))
    written = r'(?:append\(|return \(|found = \(|found, |else \[)"(\w+)"'
    raised = set(re.findall(written, sources))
    assert {"few_samples", "unstable", "other_load", "throttled", "random_inputs"} <= raised
    assert raised <= set(FLAGS)
