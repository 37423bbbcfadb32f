"""What the INT8 techniques share: what they refuse, what they promise, how wide weights are."""

from __future__ import annotations

import logging
from typing import Literal

from torch import nn

from kdeploy.compress.contract import CompressContext
from kdeploy.errors import NotCalibrated, OrderError
from kdeploy.machine import Machine, fingerprint
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.quantization.contract import quantized_by
from kdeploy.quantization.number_format import INT7, INT8, NumberFormat
from kdeploy.quantization.onnx_static import check_integers
from kdeploy.quantization.pt2e import QuantizedModel

_LOG = logging.getLogger(__name__)
ARCHITECTURES = frozenset({"x86_64", "AMD64", "i686"})
VECTORS = frozenset({"avx2", "avx512f"})
WIDE_SUMS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})


def is_quantized(model: nn.Module) -> None:
    """Raise AssertionError unless the model, or file, computes on integers."""
    if isinstance(model, OnnxModel):
        check_integers(model.path)
        return
    assert isinstance(model, QuantizedModel), "the model has no quantizers"
    targets = [str(node.target) for node in model.graph.graph.nodes]
    assert any("dequantize_per_channel" in t for t in targets), "no weight is INT8"


def check_quantizable(model: nn.Module, context: CompressContext) -> None:
    """Refuse what cannot be calibrated.

    Raises:
        OrderError: the model is quantized already.
        NotCalibrated: there is no training data.
    """
    if by := quantized_by(model):
        profile = getattr(model, "profile", None)
        raise OrderError(
            f"the model is quantized already (`{by}`{f', profile `{profile}`' if profile else ''})",
            hint="leave one of the two steps out; exports re-encode: `--profile tensorrt`",
        )
    if not len(context.data.train) and context.data.unlabelled is None:
        raise NotCalibrated(
            f"`{context.data.name}` has no training items to calibrate INT8 on",
            hint="calibration needs some; lower `data.validation_fraction`",
        )
    for name in without_statistics(model):
        _LOG.warning(
            "`%s` is a batch norm without running statistics: what the model answers to an item "
            "depends on the others of its batch, and it stays float; "
            "`track_running_stats=True` lets it be folded",
            name,
        )


def without_statistics(model: nn.Module) -> list[str]:
    """Return the batch norms that take mean and variance of each batch in evaluation mode too."""
    kind = nn.modules.batchnorm._BatchNorm
    named = model.named_modules()
    return [name for name, norm in named if isinstance(norm, kind) and norm.running_mean is None]


def weight_format(
    profile: str, reduce_range: bool | Literal["auto"], context: CompressContext
) -> NumberFormat:
    """Return 7 or 8 bits for the weights, and say why."""
    is_reduced, reason = reduce_range is True, f"`reduce_range: {reduce_range}`"
    if reduce_range == "auto":
        machine = fingerprint()
        is_reduced = profile == "cpu" and saturates(machine)
        sums = "saturates" if is_reduced else "does not saturate"
        reason = f"profile `{profile}`: `{machine.cpu}` {sums} in sums of 8-bit products"
    bits = 7 if is_reduced else 8
    context.report["weights"] = [{"bits": bits, "reason": reason}]
    _LOG.info("%d-bit weights: %s", bits, reason)
    return INT7 if is_reduced else INT8


def saturates(machine: Machine) -> bool:
    """Return whether the machine is known to be an x86 whose INT8 sums saturate: one without VNNI.

    Its `pmaddubsw` adds two products of uint8 and int8 in 16 bits, and 2 x 255 x 127 does not fit;
    weights of 7 bits always do.
    """
    known = set(machine.instruction_sets)
    is_known_x86 = machine.architecture in ARCHITECTURES and bool(known & VECTORS)
    return is_known_x86 and not known & WIDE_SUMS
