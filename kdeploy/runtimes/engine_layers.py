"""What TensorRT's inspector says of an engine: which kernel each layer got, and in which numbers.

TensorRT 10 writes a tensor's `Format/Datatype`, 11 its `Format` and its `Datatype`; 10 lists the
engine's `Bindings`, 11 its `I/O Tensors`. Layers are looked at alone, so the lists are not read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from kdeploy.runtimes.contract import Proof

# Parts of the layer types that multiply and add, in lower case.
ELIGIBLE = ("conv", "gemm", "matmul", "matrixmultiply", "fullyconnected")
_TYPE_KEYS = ("Format/Datatype", "Datatype", "Format")

Layer = Mapping[str, Any]


def proof_of(
    inspected: str,
    *,
    provider: str,
    settings: Mapping[str, Any],
    is_quantized: bool = False,
    sparse_eligible: int = 0,
) -> Proof:
    """Return what the inspector's JSON proves.

    Args:
        inspected: As the inspector prints it; an engine that was built without detailed verbosity
            has names of layers only, and then nothing is proven.
        provider: Who runs the engine.
        settings: Told on.
        is_quantized: The ONNX file was; its engine may have nothing of it left.
        sparse_eligible: Layers of the ONNX file with 2:4 weights, where it is known.
    """
    layers = [layer for layer in json.loads(inspected).get("Layers", []) if isinstance(layer, dict)]
    eligible = [layer for layer in layers if _is_eligible(layer)]
    sparse = sum(_is_sparse(layer) for layer in eligible)
    return Proof(
        provider=provider,
        eligible=len(eligible),
        integer=sum(_is_integer(layer) for layer in eligible),
        is_quantized=is_quantized or any(_is_integer(layer) for layer in layers),
        # Where nothing is proven, that no sparse kernel ran is not proven either.
        sparse_eligible=max(sparse_eligible, sparse) if layers else 0,
        sparse=sparse,
        operators=dict(sorted(Counter(_type(layer) for layer in layers).items())),
        settings=dict(settings),
        layers=[_row(layer) for layer in layers],
    )


def _row(layer: Layer) -> dict[str, str]:
    into, out = _numbers(layer.get("Inputs", [])), _numbers(layer.get("Outputs", []))
    return {
        "name": str(layer.get("Name", "")),
        "kernel": str(layer.get("TacticName") or _type(layer)),
        "why": f"{_type(layer)}: {into or 'nothing'} to {out or 'nothing'}",
    }


def _type(layer: Layer) -> str:
    return str(layer.get("LayerType", "unknown"))


def _is_eligible(layer: Layer) -> bool:
    # Fused layers have a type of their own, and their operator in `ParameterType`.
    described = f"{_type(layer)} {layer.get('ParameterType', '')}".lower()
    return any(part in described for part in ELIGIBLE)


def _is_integer(layer: Layer) -> bool:
    """Say whether the layer reads int8: its first input is the activation, weights are none."""
    return "int8" in _numbers(layer.get("Inputs", [])[:1]).lower()


def _is_sparse(layer: Layer) -> bool:
    return "sparse" in str(layer.get("TacticName", "")).lower()


def _numbers(tensors: Sequence[Any]) -> str:
    """Return the number formats of tensors as they are written, apart from their shapes."""
    described = [t for t in tensors if isinstance(t, dict)]
    return ", ".join(" ".join(str(t[k]) for k in _TYPE_KEYS if k in t) for t in described)
