"""The calls of kernels that a training is going to make, recorded in a forked process.

The forked process has the models as they are and goes without a trace: statistics, memories,
counters and random numbers of this one stay untouched, and a forward pass that dies takes nothing
with it. It computes with one thread, because those of this process are not in it.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode

from kdeploy.system.process_end import named_end
from kdeploy.training.arithmetic import Layers
from kdeploy.training.kernel_trial import describe

# What vendors write kernels for, and where layout, precision and threads choose between them.
NAMES = (
    *("convolution", "conv1d", "conv2d", "conv3d", "linear", "matmul"),
    *("addmm", "mm", "bmm", "baddbmm", "native_batch_norm", "native_layer_norm"),
    *("native_group_norm", "upsample", "_upsample", "grid_sampler", "mkldnn_rnn_layer"),
    *("max_pool", "avg_pool", "adaptive", "_adaptive", "_scaled_dot_product"),
)
PATIENCE_SECONDS = 120.0
MakeSteps = Callable[[], Sequence[Callable[[], object]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a forked process has seen."""

    calls: tuple[tuple[str, str | None], ...] = ()
    """Distinct calls as JSON, each with the innermost layer that makes it."""
    error: str = ""
    """What a forward pass failed with, and then the layer."""
    layer: str | None = None
    died: str = ""
    """What ended the forked process before it was done."""


def can_record(device: torch.device) -> bool:
    """Return whether calls can be recorded: on a CPU, where a process can be forked safely."""
    return device.type == "cpu" and sys.platform == "linux"


def recorded(make_steps: MakeSteps, layers: Layers, *, is_cast: bool) -> Record:
    """Return the distinct calls that steps make in their forward pass.

    Args:
        make_steps: Called in the other process; what it calls itself is not recorded.
        layers: The names of the modules.
        is_cast: Whether the steps are to compute under autocast in bf16.
    """
    readable, writable = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 and later warn of threads; the child neither waits for one nor starts one.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.close(readable)
        _record_and_leave(writable, make_steps, layers, is_cast)
    os.close(writable)
    text = b""
    try:
        text, is_late = _read(readable)
    finally:
        os.close(readable)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    try:
        found = json.loads(text)
    except ValueError:
        ended = "no answer" if is_late else _named_end(status)
        return Record(died=ended)
    calls = tuple((call, layer) for call, layer in found["calls"])
    return Record(calls=calls, error=found["error"], layer=found["layer"])


def _read(readable: int) -> tuple[bytes, bool]:
    """Return all that comes before the end of the pipe, and whether that was waited for in vain."""
    text, deadline = b"", time.monotonic() + PATIENCE_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([readable], [], [], left)[0]:
            break
        piece = os.read(readable, 1 << 16)
        if not piece:
            return text, False
        text += piece
    return text, True


def _named_end(status: int) -> str:
    return named_end(os.waitstatus_to_exitcode(status))


def _record_and_leave(
    writable: int, make_steps: MakeSteps, layers: Layers, is_cast: bool
) -> NoReturn:
    try:
        gc.disable()  # finalizers are the parent's
        faulthandler.disable()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with open(os.devnull, "r+b") as nothing:  # noqa: PTH123 - what a model prints is printed later
            for stream in (0, 1, 2):
                os.dup2(nothing.fileno(), stream)
        torch.set_num_threads(1)
        try:
            steps = make_steps()
        except Exception:
            steps = []  # the training tells it better, at its first batch
        answer = json.dumps(_record(steps, layers, is_cast)).encode()
        while answer:
            answer = answer[os.write(writable, answer) :]
    finally:
        os._exit(0)


def _record(steps: Sequence[Callable[[], object]], layers: Layers, is_cast: bool) -> dict[str, Any]:
    running: list[nn.Module] = []
    register_module_forward_pre_hook(lambda module, args: running.append(module))
    register_module_forward_hook(lambda module, args, output: _left(running, module))
    mode = _Recording(lambda: _innermost(running, layers))
    error, layer = "", None
    try:
        with mode, torch.autocast("cpu", torch.bfloat16, enabled=is_cast):
            for step in steps:
                step()
    except Exception as failure:
        error, layer = f"{type(failure).__name__}: {failure}", _innermost(running, layers)
    return {"calls": list(mode.calls.items()), "error": error, "layer": layer}


def _left(running: list[nn.Module], module: nn.Module) -> None:
    # Down to it: a forward pass that failed and was caught has left its inner layers there.
    while running and running.pop() is not module:
        pass


def _innermost(running: Sequence[nn.Module], layers: Layers) -> str | None:
    names = (layers.name_of(module) for module in reversed(running))
    return next((name for name in names if name is not None), None)


class _Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps each distinct call of the kernels in `NAMES`."""

    def __init__(self, layer: Callable[[], str | None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layer = layer
        self.calls: dict[str, str | None] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        name = func.name()
        if name.partition("::")[2].startswith(NAMES) and _is_plain(args, kwargs):
            text = json.dumps(describe(name, args, kwargs), sort_keys=True)
            self.calls.setdefault(text, self.layer())
        return func(*args, **kwargs)


def _is_plain(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    values = [*args, *kwargs.values()]
    tensors = [v for v in values if isinstance(v, Tensor)]
    return all(type(t) in (Tensor, nn.Parameter) and t.layout == torch.strided for t in tensors)
