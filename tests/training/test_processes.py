"""Processes: alone without effect, and an error that says how to start more."""

import sys

import pytest
import torch

from kdeploy.errors import InputError
from kdeploy.training.processes import Processes, joined, local_rank, started


def test_one_alone_is_the_first_of_one(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "7")
    alone = joined(1, 1)
    assert (alone.count, alone.is_first, local_rank()) == (1, True, 0)
    assert alone.from_first("said") == "said"
    assert alone.add_up(torch.ones(2)).tolist() == [1, 1]
    with alone.in_turn():
        pass


@pytest.mark.parametrize(
    ("nodes", "command"),
    [
        (1, "torchrun --nproc-per-node 2 -m kdeploy run 'my recipe.yaml'"),
        (3, "torchrun --nnodes 3 --rdzv-backend c10d --rdzv-endpoint FIRST_MACHINE:29500"),
    ],
)
def test_processes_that_were_not_started_are_an_error_with_the_command(nodes, command, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(sys, "argv", ["/bin/kdeploy", "run", "my recipe.yaml"])
    with pytest.raises(InputError, match=f"2 processes on each of {nodes} machines") as caught:
        joined(2, nodes)
    assert command in caught.value.hint


def test_what_torchrun_started_is_used_where_nothing_is_asked_for(monkeypatch):
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert started(None, None) == (1, 1)
    assert started(4, None) == (4, 1)
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert started(None, None) == (4, 2)


def test_ranks_count_up_to_devices_times_machines():
    assert Processes(rank=3, devices=2, num_nodes=2).count == 4
    assert not Processes(rank=3, devices=2, num_nodes=2).is_first
