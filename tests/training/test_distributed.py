"""Two processes with half of each batch learn what one process learns."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).with_name("trained_together.py")
LIMIT_SECONDS = 300  # a hang must not become CI's


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Return what both processes of a pair ended with."""
    folder = tmp_path_factory.mktemp("together")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    pair = [
        subprocess.Popen(
            [sys.executable, "-W", "error", str(WORKER), str(folder)],
            env={**os.environ, **place, "RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        for process in pair:
            _, errors = process.communicate(timeout=LIMIT_SECONDS)
            assert process.returncode == 0, errors
    finally:
        for process in pair:
            process.kill()
            process.communicate()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("trained_together", WORKER)
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    return worker.outcomes(tmp_path_factory.mktemp("alone"), devices=1)


@pytest.mark.parametrize(
    "name",
    ["supervised", "updates", "recomputed", "accumulated", "distilled", "scheduled", "sparse"],
)
def test_two_processes_learn_what_one_learns(name, together, alone):
    numbers, weights = together[0][name]
    expected_numbers, expected_weights = alone[name]
    for epoch, expected in zip(numbers, expected_numbers, strict=True):
        assert epoch == pytest.approx(expected, abs=1e-5)
    assert numbers[-1][0] < numbers[0][0], "it learned"
    for key, value in weights.items():
        assert torch.allclose(value, expected_weights[key], rtol=0, atol=1e-5), key


def test_both_processes_end_in_the_same_weights(together):
    for name, (numbers, weights) in together[0].items():
        other_numbers, other_weights = together[1][name]
        assert numbers == other_numbers
        assert all(torch.equal(value, other_weights[key]) for key, value in weights.items())


def test_both_processes_find_the_checkpoint_of_the_first(together):
    for made in together:
        (numbers, weights), (found_numbers, found_weights) = made["stored"], made["found"]
        assert numbers == found_numbers
        assert all(torch.equal(value, found_weights[key]) for key, value in weights.items())
