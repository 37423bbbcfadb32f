"""Which weights this machine computes exactly on, for tests that quantize without a compressor."""

from __future__ import annotations

from kdeploy.compress.quantization_rules import saturates
from kdeploy.runtimes.run import this_machine


def is_reduced(profile: str = "cpu") -> bool:
    """As compressors have it: where sums of 8-bit products saturate, weights have 7 bits."""
    return profile == "cpu" and saturates(this_machine())
