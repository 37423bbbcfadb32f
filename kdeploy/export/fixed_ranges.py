"""Which quantized models an exporter for edge runtimes takes, and in which encoding they become."""

from __future__ import annotations

from torch import nn

from kdeploy.errors import ModelError
from kdeploy.quantization.contract import is_wrapped
from kdeploy.quantization.pt2e import QuantizedModel


def with_fixed_ranges(model: nn.Module, *, target: str, profile: str) -> nn.Module:
    """Return a float model as it is, one of fixed ranges with its encoding written anew.

    Args:
        model: What is exported.
        target: The exporter, for messages.
        profile: The encoding.

    Raises:
        ModelError: it was quantized in another way.
    """
    if isinstance(model, QuantizedModel):
        return model if model.profile == profile else model.with_profile(profile)
    if is_wrapped(model):
        raise ModelError(
            f"`{target}` takes float models and INT8 ones of fixed ranges, not `{model.wrapper}`",
            hint="quantize it by `int8_ptq` or `int8_qat`",
        )
    return model
