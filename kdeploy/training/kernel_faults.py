"""Known faults of kernels: what is in here is not tried, it is avoided.

One entry a fault: on which calls, and what happens. A call is as `kernel_trial.describe` has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault."""

    happens: Callable[[Mapping[str, Any], int], bool]
    """Whether a call meets it with so many threads."""
    what: str


def known_fault(call: Mapping[str, Any], threads: int) -> Fault | None:
    """Return the fault that a call would meet here."""
    return next((fault for fault in FAULTS if fault.happens(call, threads)), None)


def is_channels_last(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Return whether a tensor is an image whose channels, more than one, lie innermost."""
    return len(shape) in (4, 5) and shape[1] > 1 and stride[1] == 1 and min(stride[2:]) > 1


def _narrow_strided_pointwise(call: Mapping[str, Any], threads: int) -> bool:
    """Whether a gradient of a strided 1x1 convolution has fewer channels than a vector has room.

    Found with PyTorch 2.13.0 and 2.14.1, which carry oneDNN 3.12.0, in float32 and bf16. On AVX2
    with fewer than 8 channels: any batch but one image, any number of threads. On AVX-512 with
    fewer than 16 where threads share a batch unevenly: 59, 61, 7, 127 on 2 threads, 62 on 4.
    """
    if call["name"] != "aten::convolution":
        return False
    capability = torch.backends.cpu.get_cpu_capability()
    images, weight = call["args"][0], call["args"][1]
    strides, is_transposed, groups = call["args"][3], call["args"][6], call["args"][8]
    (shape, stride, _, _), (size, _, _, is_trained) = images["tensor"], weight["tensor"]
    is_pointwise = len(size) == 4 and set(size[2:]) == {1} and max(strides) > 1
    is_met = {
        "AVX2": size[1] < 8 and shape[0] > 1,
        "AVX512": size[1] < 16 and shape[0] % threads != 0,
    }
    return (
        is_pointwise
        and is_trained
        and not is_transposed
        and groups == 1
        and is_met.get(capability, False)
        and is_channels_last(shape, stride)
    )


FAULTS = (
    Fault(
        happens=_narrow_strided_pointwise,
        what="the gradient of a strided 1x1 convolution with fewer channels in than a vector of "
        "the processor holds writes past its memory in `channels_last`",
    ),
)
