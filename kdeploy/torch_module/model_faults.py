"""Where a model does what it must not: lines, layers and attributes, found by watching one run.

But for the first, all is asked only once something is known to be wrong, to say where.
"""

from __future__ import annotations

import inspect
import random
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kdeploy.errors import ModelError
from kdeploy.torch_module.hooks import hooked
from kdeploy.torch_module.named_inputs import NamedTensors, call, each_of
from kdeploy.untrusted.user_code import frames_in, is_own, is_users, line_of, users_frame


def check_can_be_read(model: nn.Module, build: str) -> None:
    """Refuse models without Python code, and weights without values.

    Raises:
        ModelError: with what the function is to return instead.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                f"`{build}` returned TorchScript{f' in `{name}`' if name else ''}: its layers can"
                " be neither changed nor stored",
                hint="return the module as it is before `torch.jit.script` or `torch.jit.trace`",
            )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if torch.nn.parameter.is_lazy(tensor):
            raise ModelError(
                f"`{build}` returned a model that is not ready: `{name}` has no shape yet",
                hint="run it once in that function, `model(torch.zeros(1, ...))`, or write the"
                " sizes down in place of Lazy layers",
            )
        if tensor.is_meta:
            raise ModelError(
                f"`{build}` returned a model without values: `{name}` is on the device `meta`",
                hint="make it without `device='meta'`, or `model.to_empty(device='cpu')` and then"
                " give it its values",
            )


def returned_at(model: nn.Module, x: Tensor) -> str:
    """Return the line where the model's `forward` returns, "" where it cannot be seen."""
    forward, found = getattr(type(model).forward, "__code__", None), ""

    def see(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal found
        if event == "return" and frame.f_code is forward and argument is not None:
            found = line_of(forward.co_filename, frame.f_lineno, "forward")

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        call(model, x.clone())
    except Exception:  # it was run before, and what it raised was told then
        return found
    finally:
        sys.setprofile(before)
    return found


def input_changed_at(model: nn.Module, x: Tensor) -> str:
    """Return the line or layer after which the model's input was no longer what was given."""
    given = x.clone()
    before = given._version
    return _first_place(model, given, lambda: given._version != before or not same(given, x))


def random_at(model: nn.Module, x: Tensor) -> str:
    """Return the line or layer at which random numbers were drawn, "" where none were."""
    before = random_state()
    return _first_place(model, x.clone(), lambda: random_state() != before)


@torch.no_grad()
def no_number_at(model: nn.Module, x: Tensor) -> str:
    """Return the line at which a result is NaN, or else infinite, of no layer; "" if unknown.

    No layer is watched: those with a fused path of their own take another one then.
    """
    watching = _Results()
    try:
        with watching:
            call(model, x.clone())
    except Exception:  # it ran before; what is different now is that it is watched
        return ""
    return watching.found.get("nan", watching.found.get("infinity", ""))


def not_differentiable_at(model: nn.Module, x: Tensor) -> str:
    """Return the line whose result autograd cannot differentiate in training, "" if unknown."""
    modes = {module: module.training for module in model.modules()}
    # Anomaly detection warns with the traceback of the forward pass, as text.
    with warnings.catch_warnings(record=True) as told, torch.enable_grad():
        warnings.simplefilter("always")
        try:
            with torch.autograd.detect_anomaly(check_nan=False):
                answer = call(model.train(), x.clone())
                answer = answer[0] if isinstance(answer, list | tuple) else answer
                answer.float().sum().backward()
        except Exception:  # it is known to fail; where is in the warning
            pass
        finally:
            for module, mode in modes.items():
                module.training = mode
    return _last_users_line("".join(str(w.message) for w in told))


def _last_users_line(traceback: str) -> str:
    """Return the innermost line of the user's that we called, out of a traceback as text."""
    place = ""
    for file, line, function in frames_in(traceback):
        if is_own(file):
            place = ""  # whoever called us is not meant
        elif is_users(file):
            place = line_of(file, line, function)
    return place


def same(one: Any, other: Any) -> bool:
    """Tell whether two tensors, or two of several by name, hold the same values.

    What is not a number equals itself.
    """
    if isinstance(other, NamedTensors):
        return all(same(tensor, dict(each_of(one))[name]) for name, tensor in each_of(other))
    return torch.equal(one, other) or bool(((one == other) | one.isnan() & other.isnan()).all())


@contextmanager
def same_randomness(seed: int) -> Iterator[None]:
    """Draw the same random numbers in each such block, and disturb nobody else's."""
    arrays, own = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(arrays)
            random.setstate(own)


def assigned_at(module: nn.Module, name: str) -> str:
    """Return the line of a module's class that makes an attribute or a buffer, "" for none."""
    own = re.escape(name)
    is_buffer = name in module._buffers
    asks = re.compile(
        rf"register_buffer\(\s*f?[\"']{own}" if is_buffer else rf"self\.{own}\s*(?::[^=]+)?=[^=]"
    )
    for kind in type(module).__mro__:
        try:
            lines, start = inspect.getsourcelines(kind)
            file = inspect.getsourcefile(kind) or ""
        except (OSError, TypeError):
            continue
        for number, line in enumerate(lines):
            if asks.search(line):
                return line_of(file, start + number, "__init__")
    return ""


class _Watching(TorchFunctionMode):
    """Looks after every function of torch whether something has happened, and keeps where."""

    def __init__(self, happened: Callable[[], bool], running: list[str]) -> None:
        super().__init__()
        self.happened = happened
        self.running = running
        self.place = ""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if not self.place and self.happened():
            users = users_frame(sys._getframe(1))
            layer = self.running[-1] if self.running else ""
            self.place = line_of(*users) if users else layer
            if users and layer:
                self.place += f", in the layer {layer}"
        return result


class _Results(TorchFunctionMode):
    """Keeps the user's lines of the first results that are no numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.is_floating_point():
            of_nan, of_infinity = bool(result.isnan().any()), bool(result.isinf().any())
            kind = "nan" if of_nan else "infinity" if of_infinity else ""
            users = users_frame(sys._getframe(1)) if kind and kind not in self.found else None
            if users is not None:
                self.found[kind] = line_of(*users)
        return result


def _first_place(model: nn.Module, x: Tensor, happened: Callable[[], bool]) -> str:
    running: list[str] = []

    def enter(name: str) -> Callable[..., None]:
        return lambda module, given: running.append(f"`{name}` ({module})")

    handles = []
    for name, module in model.named_modules():
        if name and not next(module.children(), None):
            handles.append(module.register_forward_pre_hook(enter(name)))
            handles.append(module.register_forward_hook(lambda *given: running.pop() and None))
    try:
        with hooked(handles), torch.no_grad(), _Watching(happened, running) as watching:
            call(model, x)
    except Exception:  # it ran before; what is different now is that it is watched
        return ""
    place: str = watching.place
    return place


def random_state() -> tuple[bytes, bytes, Any]:
    """Return where the generators of torch, numpy and Python stand."""
    _, keys, position, *_ = np.random.get_state()
    return (
        torch.get_rng_state().numpy().tobytes(),
        np.asarray(keys).tobytes() + str(position).encode(),
        random.getstate(),
    )
