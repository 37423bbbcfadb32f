"""Silence what torch says about its own code, and nothing else."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# torchao cannot load its GPU kernels on a CPU build, and registers an enumeration in an old way;
# torch's exporter offers operators of torchvision, which nothing here needs; a graph that cannot be
# traced is printed whole, before the error says why.
RECORDS = (
    *("Failed to load", "register_constant() on Enum", "torchvision is not installed"),
    *("Unable to find user code", "def forward("),
)
LOGGERS = (
    *("torchao", "torch.utils._pytree", "torch.onnx._internal.exporter._registration"),
    "torch.fx.experimental.symbolic_shapes",
)
WARNINGS: tuple[tuple[str, type[Warning]], ...] = (
    # Copying a graph calls a name of torch's pytree that torch has deprecated (2.13).
    (".*treespec, LeafSpec.*", FutureWarning),
    # Tracing a recurrent layer of torch's replaces its list of weights, and puts it back.
    # The exporter names the batch once, and several inputs share it.
    ("# The axis name: .* will not be used", UserWarning),
    (r"The tensor attributes? .*\b_flat_weights\[", UserWarning),
)


@contextmanager
def without_torch_noise() -> Iterator[None]:
    """Drop the records and the warnings above while torch imports, traces or copies a graph."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addFilter(_is_wanted)
    try:
        with warnings.catch_warnings():
            for message, category in WARNINGS:
                warnings.filterwarnings("ignore", message, category)
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(_is_wanted)


@contextmanager
def without_converter_noise() -> Iterator[None]:
    """Drop every warning, too, while another project's converter is imported or at work.

    They are about its own code, and of many kinds: what users must know is raised.
    """
    with without_torch_noise(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _is_wanted(record: logging.LogRecord) -> bool:
    return not any(noise in record.getMessage() for noise in RECORDS)
