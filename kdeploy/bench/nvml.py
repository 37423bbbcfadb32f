"""What the NVIDIA driver tells of a GPU: memory of a process, energy, how long it was slowed.

Through `pynvml` where it is installed, else memory alone through `nvidia-smi`. Nothing is ever set.
Source: NVIDIA's NVML API reference, https://docs.nvidia.com/deploy/nvml-api/.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kdeploy.errors import MissingDependency, Unavailable

PIP = "nvidia-ml-py"


def memory_bytes(pid: int) -> int:
    """Return the memory that a process holds on all GPUs now.

    Raises:
        Unavailable: neither `pynvml` nor `nvidia-smi` is here, or they do not know the process.
    """
    try:
        held = [used for gpu in _processes() for number, used in gpu if number == pid]
    except Unavailable:
        held = [used for number, used in _asked_of_nvidia_smi() if number == pid]
    if not held:
        raise Unavailable(
            f"the driver tells no memory of a process {pid} on its GPUs",
            hint="in a container it has another number there: share the host's (`--pid=host`)",
        )
    return sum(held)


def energy_joules() -> float:
    """Return what GPU 0 of this process has used since the driver was loaded.

    Raises:
        Unavailable: there is no `pynvml`, or the GPU (before Volta) does not count it.
    """
    with _opened() as (nvml, gpus):
        return float(_told(nvml, nvml.nvmlDeviceGetTotalEnergyConsumption, gpus[0])) * 1e-3


def slowed_nanoseconds() -> int:
    """Return how long heat and power have lowered the clocks so far; 0 where nobody tells."""
    try:
        with _opened() as (nvml, gpus):
            causes = (nvml.NVML_PERF_POLICY_THERMAL, nvml.NVML_PERF_POLICY_POWER)
            return sum(
                int(_told(nvml, nvml.nvmlDeviceGetViolationStatus, gpu, cause).violationTime)
                for gpu in gpus
                for cause in causes
            )
    except Unavailable:
        return 0


def _processes() -> list[list[tuple[int, int]]]:
    """Return for each GPU the processes on it and what each holds, where the driver says it."""
    with _opened() as (nvml, gpus):
        return [
            [
                (int(p.pid), int(p.usedGpuMemory))
                for p in _told(nvml, nvml.nvmlDeviceGetComputeRunningProcesses, gpu)
                if p.usedGpuMemory is not None
            ]
            for gpu in gpus
        ]


@contextmanager
def _opened() -> Iterator[tuple[Any, list[Any]]]:
    """Yield the library and the GPUs that this process may use."""
    try:
        import pynvml
    except ImportError:
        raise MissingDependency.named("pynvml", needed_for="asking a GPU", pip=PIP) from None
    nvml: Any = pynvml
    _told(nvml, nvml.nvmlInit)
    try:
        gpus = [
            _told(nvml, nvml.nvmlDeviceGetHandleByIndex, i)
            for i in _visible(_told(nvml, nvml.nvmlDeviceGetCount))
        ]
        if not gpus:
            raise Unavailable(
                "there is no GPU that this process may use", hint="look at CUDA_VISIBLE_DEVICES"
            )
        yield nvml, gpus
    finally:
        nvml.nvmlShutdown()


def _visible(count: int) -> list[int]:
    """Return the numbers of the GPUs that CUDA_VISIBLE_DEVICES leaves; it may name them by UUID."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    numbers = [int(name) for name in named if name.strip().isdigit()]
    return [n for n in numbers if n < count] or list(range(count))


def _told(nvml: Any, ask: Any, *arguments: Any) -> Any:
    try:
        return ask(*arguments)
    except nvml.NVMLError as error:
        raise Unavailable(f"the driver says: {error}", hint="see `nvidia-smi`") from None


def _asked_of_nvidia_smi() -> list[tuple[int, int]]:
    """Return process numbers and the bytes that each holds."""
    program = shutil.which("nvidia-smi")
    if program is None:
        raise Unavailable("neither `pynvml` nor `nvidia-smi` is here", hint=f"pip install {PIP}")
    query = [program, "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"nvidia-smi failed: {error}", hint="run it yourself") from None
    rows = (line.split(",") for line in answer.stdout.splitlines())
    # In MiB; "[N/A]" where the driver does not say.
    return [(int(r[0]), int(r[1]) * 2**20) for r in rows if len(r) == 2 and r[1].strip().isdigit()]
