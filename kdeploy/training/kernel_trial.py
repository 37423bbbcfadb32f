"""Make calls of kernels in a process of its own, that may die of them: it needs torch only.

It reads a line of JSON a call, `{"call", "threads"}`, and answers with one, `{"verdict", "said"}`.
A call is made forwards and backwards, several times, on random numbers, and compared with the same
in float32 and in the plain layout.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import select
import sys
from typing import Any

import torch
from torch import Tensor

TIMES = 6  # what writes past its end meets something that notices in about three of four
# Of the largest value. A number in bf16 is off by a 500th; a kernel that errs, by its whole size.
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.03, torch.float16: 0.01}
COMPARED = ("conv", "linear", "matmul", "addmm", "mm", "bmm", "baddbmm", "upsample", "_upsample")
IDLE_SECONDS = 60  # then the process ends: it must not outlive the training for long
OK, DIFFERS, FAILS, UNKNOWN = "ok", "differs", "fails", "unknown"


def describe(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return a call as JSON can hold it: of tensors the shape, not the values."""
    return {
        "name": name,
        "args": [_described(value) for value in args],
        "kwargs": {key: _described(value) for key, value in kwargs.items()},
    }


def tried(call: dict[str, Any]) -> dict[str, str]:
    """Return what came of a call: a verdict, and what there is to say of it."""
    torch.manual_seed(0)
    given = [_made(value) for value in (*call["args"], *call["kwargs"].values())]
    try:
        expected = _results(call, [_plain(value) for value in given])
    except Exception as error:
        return {"verdict": UNKNOWN, "said": f"{type(error).__name__}: {error}"}
    # More than once: a kernel that reads past the end errs by what happens to lie there.
    for _ in range(TIMES):
        try:
            found = _results(call, given)
        except Exception as error:
            return {"verdict": FAILS, "said": f"{type(error).__name__}: {error}"}
        difference = _difference(call["name"], found, expected)
        _walk_the_heap()
        if difference:
            return {"verdict": DIFFERS, "said": difference}
    return {"verdict": OK, "said": ""}


def main() -> None:
    """Answer calls until there are no more, or none comes for a while."""
    while select.select([sys.stdin], [], [], IDLE_SECONDS)[0]:
        line = sys.stdin.readline()
        if not line:
            return
        asked = json.loads(line)
        if torch.get_num_threads() != asked["threads"]:
            torch.set_num_threads(asked["threads"])
        sys.stdout.write(json.dumps(tried(asked["call"])) + "\n")
        sys.stdout.flush()


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return {"tensor": [list(value.shape), list(value.stride()), dtype, value.requires_grad]}
    if isinstance(value, list | tuple):
        return [_described(item) for item in value]
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    is_plain = value is None or isinstance(value, bool | int | float | str)
    return value if is_plain else {"other": type(value).__name__}


def _made(value: Any) -> Any:
    if isinstance(value, list):
        return [_made(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "dtype" in value:
        return getattr(torch, value["dtype"])
    shape, stride, name, is_trained = value["tensor"]
    dtype = getattr(torch, name)
    size = (
        1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) if all(shape) else 0
    )
    # A mask of ones hides nothing, an index of zero is always there.
    flat = (
        torch.randn(size).to(dtype) if dtype.is_floating_point else torch.zeros(size, dtype=dtype)
    )
    flat = torch.ones(size, dtype=dtype) if dtype == torch.bool else flat
    return flat.as_strided(shape, stride).requires_grad_(is_trained)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if not isinstance(value, Tensor) or not value.dtype.is_floating_point:
        return value
    copy = value.detach().float().contiguous()
    return copy.requires_grad_(value.requires_grad)


def _results(call: dict[str, Any], given: list[Any]) -> list[Tensor]:
    """Return the outputs and the gradients of a call, both under the same random numbers."""
    torch.manual_seed(1)
    name, _, overload = call["name"].removeprefix("aten::").partition(".")
    operator = getattr(getattr(torch.ops.aten, name), overload or "default")
    args = given[: len(call["args"])]
    kwargs = dict(zip(call["kwargs"], given[len(args) :], strict=True))
    answer = operator(*args, **kwargs)
    outputs = [t for t in _tensors(answer) if t.is_floating_point()]
    trained = [t for t in _tensors(given) if t.requires_grad]
    learned = [t for t in outputs if t.requires_grad]
    if not trained or not learned:
        return outputs
    output = learned[0]
    torch.manual_seed(2)
    grad = torch.randn(output.shape).to(output.dtype)
    # In the memory of the output, as the layer after it gives it back.
    grad = torch.empty_like(output).copy_(grad)
    grads = torch.autograd.grad(output, trained, grad, allow_unused=True)
    return [output.detach(), *(g for g in grads if g is not None)]


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def _difference(name: str, found: list[Tensor], expected: list[Tensor]) -> str:
    """Return in words what is different by more than rounding; nothing where nothing is."""
    is_compared = name.removeprefix("aten::").startswith(COMPARED)
    for own, other in zip(found, expected, strict=True):
        if not bool(own.isfinite().all()) and bool(other.isfinite().all()):
            return "values that are no finite numbers"
        if not is_compared or not own.numel():
            continue
        largest = float(other.abs().max())
        off = float((own.float() - other).abs().max())
        if off > TOLERANCES.get(own.dtype, 0.03) * max(largest, 1e-2):
            return f"a value is off by {off:.3g}, the largest is {largest:.3g}"
    return ""


def _walk_the_heap() -> None:
    """Let the C library find what was written past an end; elsewhere than in glibc, nothing."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


if __name__ == "__main__":
    main()
