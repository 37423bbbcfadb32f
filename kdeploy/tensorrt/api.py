"""TensorRT's Python API as building and running share it: which module, whether, its messages.

The full `tensorrt` builds and runs; `tensorrt_dispatch` and `tensorrt_lean` run only, and only
engines that were built `version_compatible`. TensorRT 10 and 11, whose common part is used here.
Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kdeploy.machine import fingerprint
from kdeploy.system.nvidia_driver import cuda_major, without_gpu

MODULES = ("tensorrt", "tensorrt_dispatch", "tensorrt_lean")
OLDEST_MAJOR = 10
INSTALL = "pip install 'kdeploy[tensorrt]'"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The GPU that an engine is built for or opened on."""

    gpu: str
    compute_capability: str
    """As NVIDIA writes it: `9.0`."""
    driver: str | None


def unavailable(*, to_build: bool = False) -> str | None:
    """Return why TensorRT cannot be used here, with the remedy; no object of it is made.

    Args:
        to_build: The full module is needed.
    """
    modules = MODULES[:1] if to_build else MODULES
    reason = without_gpu()
    if reason is not None:
        return reason
    if not _installed(modules):
        return f"the library `{modules[0]}` is not installed: {INSTALL}"
    needed, runs = _needed_cuda(), cuda_major()
    if needed and runs and runs < needed:
        return (
            f"the driver runs CUDA {runs} and the installed TensorRT needs CUDA {needed}: "
            f"update the driver, or install the `tensorrt-cu{runs}` packages"
        )
    return _broken(_installed(modules))


def load(*, to_build: bool = False) -> Any:
    """Return the first module that can be imported: full, then dispatch, then lean."""
    module, problems = _imported(_installed(MODULES[:1] if to_build else MODULES))
    assert module is not None, f"load before unavailable: {problems}"
    return module


def device() -> Device:
    """Return the GPU that torch works on."""
    import torch

    major, minor = torch.cuda.get_device_capability()
    return Device(
        gpu=torch.cuda.get_device_name(),
        compute_capability=f"{major}.{minor}",
        driver=fingerprint().driver,
    )


@functools.cache
def log_of(trt: Any) -> Any:
    """Return the one log of this process: TensorRT keeps the first that it is given.

    `errors` are for the message of an exception and `sparsity` says what became of 2:4 weights;
    whoever reads them clears them first. Warnings go to Python's logging, the rest there as debug.
    """
    severe = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.sparsity: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in severe:
                self.errors.append(msg.strip())
            elif "(Sparsity)" in msg:
                self.sparsity.append(msg.strip())
            is_warning = severity == trt.ILogger.Severity.WARNING
            logger.log(logging.WARNING if is_warning else logging.DEBUG, "TensorRT: %s", msg)

        def clear(self) -> None:
            self.errors, self.sparsity = [], []

        def reason(self) -> str:
            """Return all errors since `clear`, in order."""
            return "; ".join(self.errors) or "it gives no reason"

    return Log()


def _installed(modules: Sequence[str]) -> list[str]:
    return [name for name in modules if importlib.util.find_spec(name) is not None]


def _imported(modules: Sequence[str]) -> tuple[Any, list[str]]:
    problems = []
    for name in modules:
        try:
            return importlib.import_module(name), []
        except (ImportError, OSError) as error:  # its libraries are packages of their own
            problems.append(f"`{name}`: {error}")
    return None, problems


def _broken(modules: Sequence[str]) -> str | None:
    """Return why what is installed is of no use."""
    module, problems = _imported(modules)
    if module is None:
        return f"TensorRT cannot be imported, {'; '.join(problems)}: {INSTALL}"
    if int(module.__version__.split(".")[0]) < OLDEST_MAJOR:
        return f"TensorRT {module.__version__} is too old, {OLDEST_MAJOR} is needed: {INSTALL}"
    return None


def _needed_cuda() -> int | None:
    """Return the CUDA that pip's TensorRT was built for; None for one that came otherwise."""
    for major in (13, 12):
        for kind in ("tensorrt", "tensorrt-dispatch", "tensorrt-lean"):
            try:
                importlib.metadata.distribution(f"{kind}-cu{major}-libs")
            except importlib.metadata.PackageNotFoundError:
                continue
            return major
    return None
