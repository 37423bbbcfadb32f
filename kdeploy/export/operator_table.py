"""PyTorch's table of ONNX operators, read once a process instead of once an export.

For each of some 550 operators its exporter parses the Python source again, only to learn the name
of a domain: half of the time that a small model takes. What it finds is the same every time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

EXPORTERS_REGISTRY = "torch.onnx._internal.exporter._registration"


@contextmanager
def operators_read_once() -> Iterator[None]:
    """Let the exports within share what the first of them read.

    They read it themselves where another version of PyTorch keeps it elsewhere.
    """
    try:
        table = import_module(EXPORTERS_REGISTRY).onnxscript_apis
        read = table.get_torchlib_ops
    except (ImportError, AttributeError):
        yield
        return
    table.get_torchlib_ops = lambda: _known(read)
    try:
        yield
    finally:
        table.get_torchlib_ops = read


@cache
def _known(read: Callable[[], list[Any]]) -> list[Any]:
    return read()
