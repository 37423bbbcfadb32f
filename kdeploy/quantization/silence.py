"""Silence what torch says about its own code, and nothing else."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# torchao cannot load its GPU kernels on a CPU build, and registers an enumeration in an old way;
# torch's exporter offers operators of torchvision, which nothing here needs.
RECORDS = ("Failed to load", "register_constant() on Enum", "torchvision is not installed")
LOGGERS = ("torchao", "torch.utils._pytree", "torch.onnx._internal.exporter._registration")
# Copying a graph calls a name of torch's pytree that torch has deprecated (2.13).
WARNING = ".*treespec, LeafSpec.*"
# Tracing a recurrent layer touches the second list that torch keeps of its weights.
RECURRENT_WARNING = ".*_flat_weights.* were assigned during export"


@contextmanager
def without_torch_noise() -> Iterator[None]:
    """Drop the records and the warnings above while torch imports, traces or copies a graph."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addFilter(_is_wanted)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", WARNING, FutureWarning)
            warnings.filterwarnings("ignore", RECURRENT_WARNING, UserWarning)
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(_is_wanted)


def _is_wanted(record: logging.LogRecord) -> bool:
    return not any(noise in record.getMessage() for noise in RECORDS)
