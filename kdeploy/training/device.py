"""Where training runs and in which precision."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from kdeploy.errors import InputError, Unavailable
from kdeploy.training.processes import local_rank

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CPUINFO = Path("/proc/cpuinfo")
# x86: AVX-512 or AMX dot products in bf16; Arm: the BF16 extension.
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
logger = logging.getLogger(__name__)


def fabric_on(
    device: torch.device,
    precision: Literal["fp32", "bf16"],
    *,
    devices: int = 1,
    num_nodes: int = 1,
    may_skip_parameters: bool = False,
    is_sharded: bool = False,
) -> Fabric:
    """Return Fabric; `bf16` is autocast, the weights stay float32.

    Args:
        device: Of this process.
        precision: Of the arithmetic.
        devices: Processes on each machine, started already.
        num_nodes: Machines.
        may_skip_parameters: Whether a step may leave out trained parameters, which takes looking.
        is_sharded: Whether the processes divide the parameters, see `Sharding`.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins import MixedPrecision, Precision

    # As a plugin: by its name Fabric would announce the precision on the terminal.
    plugin = MixedPrecision("bf16-mixed", device.type) if precision == "bf16" else Precision()
    if devices * num_nodes == 1:
        one = 1 if device.type == "cpu" else [device.index or 0]
        return Fabric(accelerator=device.type, devices=one, plugins=[plugin])
    if device.type == "cuda" and device.index != local_rank():
        raise InputError(
            f"`{device}` was asked for, and several processes would share it",
            hint="ask for `cuda` or `auto`: each process takes a GPU of its own",
        )
    from kdeploy.training.parallel import DataParallel, ShardedParallel

    replicated = DataParallel(find_unused_parameters=may_skip_parameters)
    fabric = Fabric(
        accelerator=device.type,
        devices=devices,
        num_nodes=num_nodes,
        strategy=ShardedParallel() if is_sharded else replicated,
        plugins=[plugin],
    )
    fabric.launch()
    return fabric


def device_named(name: str) -> torch.device:
    """Return the device; of several processes on a machine each has a GPU of its own.

    Raises:
        InputError: not the name of a device that training knows.
        Unavailable: a GPU that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in {"cpu", "cuda"} or not (index.isdigit() or name == kind):
        raise InputError(f"there is no device `{name}`", hint="valid: auto, cpu, cuda, cuda:INDEX")
    number = int(index) if index else local_rank()
    if kind == "cuda" and number >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise Unavailable(
            f"the device `cuda:{number}` was asked for, torch sees {found} CUDA devices here",
            hint="use `auto` or `cpu`; `kdeploy doctor` says what is missing",
        )
    return torch.device(kind, number) if kind == "cuda" else torch.device("cpu")


def precision_on(
    device: torch.device, asked: Literal["auto", "fp32", "bf16"]
) -> Literal["fp32", "bf16"]:
    """Return the precision, `auto` resolved to what this hardware is fastest in."""
    if asked == "auto":
        return "bf16" if has_bf16(device) else "fp32"
    if asked == "bf16" and not has_bf16(device):
        logger.warning("bf16 is emulated on this %s and slower than fp32", device.type)
    return asked


def has_bf16(device: torch.device) -> bool:
    """Return whether the hardware multiplies bf16 itself; emulated it is slower than fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(BF16_FLAGS & _cpu_flags())


@cache
def _cpu_flags() -> frozenset[str]:
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:  # not Linux: nothing is known, fp32 is always right
        return frozenset()
    flags = (line for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(flags, "").partition(":")[2].split())
