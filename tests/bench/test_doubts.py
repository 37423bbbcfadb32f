from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from kdeploy.bench import doubts, records
from kdeploy.bench import model_session as side
from kdeploy.bench import system_load as surroundings
from kdeploy.flags import FLAGS
from kdeploy.machine import Machine
from kdeploy.pipeline import held_out
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


def test_every_number_of_an_emulated_processor_is_doubted():
    assert doubts.of_emulation(_machine(emulated_on="x86")) == ("emulated_processor",)
    assert doubts.of_emulation(_machine()) == ()


def test_steady_samples_raise_no_doubt():
    samples = np.random.default_rng(0).normal(1e-3, 1e-6, 2000)
    assert doubts.of_samples([samples]) == ()


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
    assert doubts.of_samples([spoil(samples)]) == (expected,)


def test_a_warm_up_that_never_settled_says_so():
    assert doubts.of_warm_up(is_steady=False) == ("unsteady_warm_up",)
    assert doubts.of_warm_up(is_steady=True) == ()


def test_rounds_unlike_the_others_are_told_by_number():
    rng = np.random.default_rng(0)
    found = [rng.normal(mean * 1e-3, 1e-6, 2000) for mean in (1, 1, 1.12, 1, 0.9, 1.09, 1, 1)]
    assert doubts.unstable_rounds(found) == [2, 4]
    assert "unstable_rounds" in doubts.of_samples(found)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ({"eligible": 3, "is_quantized": True}, ("no_op_int8",)),
        ({"eligible": 3, "is_quantized": True, "integer": 1}, ()),
        ({"eligible": 3}, ()),
        ({"is_quantized": True}, ()),
        ({"sparse_eligible": 2}, ("sparse_not_used",)),
        ({"sparse_eligible": 2, "sparse": 1}, ()),
        ({"elsewhere": 1}, ("fallback",)),
        ({"is_emulated": True}, ("emulated",)),
    ],
)
def test_what_really_ran_raises_its_doubts(seen, expected):
    assert doubts.of_proof(Proof(provider="p", **seen)) == expected


def test_without_a_proof_there_is_nothing_to_doubt():
    assert doubts.of_proof(None) == ()


def test_integers_without_dot_products_are_doubted_on_processors_only():
    proof = Proof(provider="p", eligible=2, integer=2, is_quantized=True)
    plain = Proof(provider="p", eligible=2)
    old, new = _machine(instruction_sets=("avx2",)), _machine(instruction_sets=("avx_vnni",))
    assert doubts.of_integers(proof, "cpu", old) == ("no_int8_instructions",)
    assert doubts.of_integers(proof, "cpu", new) == ()
    assert doubts.of_integers(proof, "cuda", old) == doubts.of_integers(plain, "cpu", old) == ()


def test_a_process_on_disk_is_doubted():
    assert doubts.of_memory(swapped_bytes=4096) == ("swapped",)
    assert doubts.of_memory(swapped_bytes=0) == ()


def test_a_p50_needs_twenty_samples_and_a_p90_a_hundred():
    assert doubts.of_count(50.0, 19) == doubts.of_count(90.0, 99) == ("few_samples",)
    assert doubts.of_count(50.0, 20) == doubts.of_count(90.0, 100) == ()


def test_a_slow_first_batch_is_one_unlike_the_rest():
    assert doubts.of_first(0.011, 0.001) == ("slow_first_run",)
    assert doubts.of_first(0.009, 0.001) == ()


def test_every_flag_is_raised_somewhere_and_every_one_raised_is_explained():
    raising = (doubts, records, side, surroundings, held_out)
    sources = "".join(Path(m.__file__).read_text() for m in raising)
    written = r'(?:append\(|return \(|found = \(|found, |else \[)"(\w+)"'
    assert set(re.findall(written, sources)) <= set(FLAGS)
    assert [name for name in FLAGS if f'"{name}"' not in sources] == []
