"""Compile a model where that pays: `torch.compile` takes long, and then each step is faster."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdeploy.torch_module.named_inputs import call

# benchmarks/suites/distillation_throughput.py: 25 s to compile a student of 20 000 parameters had
# paid for themselves after 430 000 items; deeper models take longer to compile.
BREAK_EVEN_ITEMS = 1_000_000
COMPILERS = ("c++", "g++", "clang++")
logger = logging.getLogger(__name__)


class CompiledCall:
    """Calls a model, once it is asked to in compiled form.

    Compiled is only the size of the first batch: a smaller last one would be compiled again. Hooks
    on inner layers are lost in a compiled model, so whoever set one asks for the model as it is.
    Not an `nn.Module`: who holds it does not hold the model a second time.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self._size: torch.Size | None = None

    def compile(self, *, is_frozen: bool = False) -> None:
        """Compile at the next call; frozen weights never change and are folded into the code."""
        options: dict[str, Any] = {"freezing": True} if is_frozen else {}
        self._compiled = torch.compile(self.model, dynamic=False, options=options)

    def __call__(self, x: Tensor, *, is_hooked: bool = False) -> Tensor:
        """Return what the model answers, without its auxiliary outputs."""
        if self._compiled is None or is_hooked:
            answer: Tensor = first_output(call(self.model, x))
            return answer
        self._size = self._size or x.shape
        chosen = self._compiled if x.shape == self._size else self.model
        of_this_size: Tensor = first_output(call(chosen, x))
        return of_this_size


def first_output(answer: Any) -> Any:
    """Return the logits of a model that gives further, auxiliary outputs while it is trained."""
    return answer[0] if isinstance(answer, list | tuple) and answer else answer


def shall_compile(asked: Literal["auto", "on", "off"], *, items: int) -> bool:
    """Return whether a training that shows so many items in all is to compile its models."""
    if asked == "off" or (asked == "auto" and items < BREAK_EVEN_ITEMS):
        return False
    if not (torch.cuda.is_available() or any(map(shutil.which, COMPILERS))):
        logger.warning("not compiled: this machine has no C++ compiler; hint: install g++")
        return False
    return True
