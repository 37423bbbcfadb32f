"""Profiles: for each kind of device, which operators take which number formats, as data.

The formats decide the speed. ONNX Runtime on a CPU fuses a convolution only when its output code
replaces the activation after it: uint8 with zero point 0, and on ARM, whose kernels multiply int8
by int8, the same codes moved by 128. TensorRT takes int8 with zero point 0 alone, and fuses a
convolution with the addition after it when no quantizer stands between. XNNPACK, in ExecuTorch and
LiteRT, takes int8 of any zero point, and a layer on integers only when its output has codes too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from kdeploy.errors import UnknownName
from kdeploy.quantization.number_format import INT8, INT8_AFFINE, UINT8, NumberFormat

ProfileName = Literal["cpu", "tensorrt", "arm", "xnnpack"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When one kind of operator runs on integers, and where it then wants quantizers."""

    starts: bool = False
    """Always; otherwise only when its result is wanted as integers."""
    inputs: Literal["all", "residual"] = "all"
    """On each input, or on each but the one that a weighted operator alone feeds."""
    output: bool = False
    """Also on its output, whoever reads it; otherwise its readers decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a kind of device runs on integers, and in which formats."""

    name: ProfileName
    activation: NumberFormat
    weight: NumberFormat
    rules: Mapping[str, Rule]
    absorbs_activations: bool
    """The codes of an output end where the activation saturates: it leaves the graph."""
    rounds_biases: bool = False
    """Biases lie on the grid on which kernels add them, int32 in steps of input x weight scale.

    Then a layer of the graph computes the codes of the kernel, bit for bit. Elsewhere a value in
    some thousands falls to the other side of a half, and each such flip travels on.
    """


_ONNX_RUNTIME_RULES = {
    "conv": Rule(starts=True, output=True),
    "linear": Rule(starts=True),
    "matmul": Rule(starts=True),
    "add": Rule(),
    "mul": Rule(),
    "average": Rule(),
    "sigmoid": Rule(),
}

PROFILES: Mapping[str, Profile] = {
    "cpu": Profile(
        name="cpu",
        activation=UINT8,
        weight=INT8,
        rules=_ONNX_RUNTIME_RULES,
        absorbs_activations=True,
    ),
    "arm": Profile(
        name="arm",
        activation=INT8_AFFINE,
        weight=INT8,
        rules=_ONNX_RUNTIME_RULES,
        absorbs_activations=True,
    ),
    "tensorrt": Profile(
        name="tensorrt",
        activation=INT8,
        weight=INT8,
        rules={
            "conv": Rule(starts=True),
            "linear": Rule(starts=True),
            "matmul": Rule(starts=True),
            "add": Rule(inputs="residual"),
            "average": Rule(),
        },
        absorbs_activations=False,
    ),
    # Products of two activations stay float: XNNPACK has no integer kernel for them.
    "xnnpack": Profile(
        name="xnnpack",
        activation=INT8_AFFINE,
        weight=INT8,
        rules={
            "conv": Rule(starts=True, output=True),
            "linear": Rule(starts=True, output=True),
            "add": Rule(),
            "mul": Rule(),
            "average": Rule(),
            "sigmoid": Rule(),
        },
        absorbs_activations=True,
        rounds_biases=True,
    ),
}


def profile_named(name: str) -> Profile:
    """Return one profile.

    Raises:
        UnknownName: there is none of that name.
    """
    if name not in PROFILES:
        raise UnknownName.among("profile", name, PROFILES)
    return PROFILES[name]
