"""What a wrapper is: a model that stands on a plain one and adds state to it.

An artefact stores the plain model as build reference, structure and tensors, and beside it the
wrapper's name and `state()`, plain JSON. `@wrapper()` marks a function
`(base, state, example) -> model` that puts the wrapper back on; the model has `.base`,
`.wrapper` (the name) and `.state()`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeGuard

from torch import Tensor, nn

from kdeploy.registration import Decorated, register
from kdeploy.torch_module.block_quantized import block_quantized

wrapper: Callable[..., Callable[[Decorated], Decorated]] = partial(register, "wrapper")


class Wrapped(Protocol):
    """A model on a model, as the store sees it."""

    wrapper: str
    base: nn.Module

    def state(self) -> dict[str, Any]:
        """Return all that, with `base`, makes the same model again; plain JSON."""
        ...

    def __call__(self, *inputs: Tensor, **named: Tensor) -> Tensor: ...


def quantized_by(model: nn.Module) -> str:
    """Return what quantized a model, a wrapper or "int4_weights"; "" for a float one."""
    if is_wrapped(model):
        return model.wrapper
    return "int4_weights" if block_quantized(model) else ""


def is_wrapped(model: object) -> TypeGuard[Wrapped]:
    """Return whether a model stands on a plain one.

    `isinstance` cannot say: since Python 3.12 a protocol no longer sees what a module finds by
    `__getattr__`, as it does its submodule `base`.
    """
    return hasattr(model, "wrapper")
