"""The processes of one training: who is first, what all of them know, what they add up.

They are started from outside, one a device, by `torchrun`. One process alone is the first of one,
and for it nothing here does anything.
"""

from __future__ import annotations

import atexit
import gc
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed

from kdeploy.errors import InputError, Unavailable

T = TypeVar("T")
# The others wait while the first asks a teacher or holds for a lock; torchrun ends all if one dies.
PATIENCE = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """This process's place among those that train together."""

    rank: int = 0
    devices: int = 1
    """Processes on each machine."""
    num_nodes: int = 1

    @property
    def count(self) -> int:
        return self.devices * self.num_nodes

    @property
    def is_first(self) -> bool:
        """Whether this one writes and speaks for all."""
        return self.rank == 0

    def from_first(self, value: T) -> T:
        """Return the first process's value in all of them."""
        if self.count == 1:
            return value
        values = [value]
        # On the CPU, as in all but `add_up`: the device may be busy, or not chosen yet.
        distributed.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]

    def add_up(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over all processes, and return it."""
        if self.count > 1:
            distributed.all_reduce(tensor)
        return tensor

    def gathered(self, value: T) -> list[T]:
        """Return the values of all processes, in their order."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Let the first go through the `with` alone, then the others.

        Raises:
            Unavailable: in the others, when the first failed.
        """
        if not self.is_first and not self.from_first(False):
            raise Unavailable("the first process failed", hint="its own message says why")
        is_done = False
        try:
            yield
            is_done = True
        finally:
            if self.is_first:
                self.from_first(is_done)


ALONE = Processes()


def joined(devices: int, num_nodes: int) -> Processes:
    """Return this process's place after all others are there; at once where it is alone.

    Raises:
        InputError: not so many processes were started.
    """
    if devices * num_nodes == 1:
        return ALONE
    if int(os.environ.get("WORLD_SIZE", 1)) != devices * num_nodes:
        raise InputError(
            f"{devices} processes on each of {num_nodes} machines were asked for, and "
            f"{os.environ.get('WORLD_SIZE', 'none')} were started",
            hint=f"start them by `{torchrun(devices, num_nodes)}`",
        )
    if not distributed.is_initialized():
        has_nccl = torch.cuda.is_available() and distributed.is_nccl_available()
        # Objects travel over gloo, gradients over NCCL.
        backend = "cpu:gloo,cuda:nccl" if has_nccl else "gloo"
        distributed.init_process_group(backend, timeout=PATIENCE)
        atexit.register(_leave)
    return Processes(rank=distributed.get_rank(), devices=devices, num_nodes=num_nodes)


def started(devices: int | None, num_nodes: int | None) -> tuple[int, int]:
    """Return devices and machines, where they are not given as torchrun has started processes."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    nodes = int(os.environ.get("WORLD_SIZE", 1)) // local
    return devices or local, num_nodes or nodes


def seed_of(seed: int, epoch: int, rank: int) -> int:
    """Return the seed of what one process draws anew in an epoch; the first draws as one alone."""
    # As numpy's generators mix their seeds: (0, 1) and (1, 0) have nothing in common.
    mixed = [seed, epoch, rank] if rank else [seed, epoch]
    return int(np.random.SeedSequence(mixed).generate_state(1)[0])


def local_rank() -> int:
    """Return the place of this process among those of its machine: the index of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0)) if distributed.is_initialized() else 0


def _leave() -> None:
    if distributed.is_initialized():
        # Models in cycles hold the group, and its threads must end before Python does.
        gc.collect()
        distributed.destroy_process_group()


def torchrun(devices: int, num_nodes: int) -> str:
    """Return the command that starts this program in so many processes."""
    program = Path(sys.argv[0])
    is_kdeploy = program.stem == "kdeploy" or program.parent.name == "kdeploy"
    what = ["-m", "kdeploy"] if is_kdeploy else [str(program)]
    command = shlex.join(["torchrun", "--nproc-per-node", str(devices), *what, *sys.argv[1:]])
    if num_nodes == 1:
        return command
    nodes = f"--nnodes {num_nodes} --rdzv-backend c10d --rdzv-endpoint FIRST_MACHINE:29500"
    return command.replace("torchrun", f"torchrun {nodes}", 1)


class Means:
    """The means of an epoch's loss components, added up on the device and read once.

    The names of the components stay the same all through an epoch.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sums = torch.zeros(0)
        self.last = torch.zeros(0)

    def add(self, components: Mapping[str, Tensor], weight: float) -> None:
        """Take in the components of one batch that stands for `weight` items."""
        self.last = torch.stack(list(components.values())).detach()
        if not self.names:
            self.names, self.sums = list(components), torch.zeros_like(self.last)
        self.sums.add_(self.last, alpha=weight)

    def newest(self) -> dict[str, float]:
        """Return the components of the last batch."""
        return dict(zip(self.names, self.last.tolist(), strict=True))

    def over(self, items: int, processes: Processes) -> dict[str, float]:
        """Return the means over the items of all processes; the device is waited for here."""
        sums = processes.add_up(self.sums)
        return dict(zip(self.names, (sums / items).tolist(), strict=True))
