"""Which kernels an integer layer may run in on a GPU, and which one it took."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Hashable

import torch
from torch import nn
from torch.fx import GraphModule

from kdeploy.kernels.fastest import Clock, Fastest, Found, Kernel
from kdeploy.kernels.int8_graph import integer_layers
from kdeploy.kernels.int8_layers import IntegerLayer, IntMm, codes_of
from kdeploy.kernels.sparse_layers import SparseIntMm, is_two_four, why_dense

CUBLASLT, CUSPARSELT = "cuBLASLt", "cuSPARSELt"


def choose_kernels(model: GraphModule, clock: Clock) -> None:
    """Let each integer layer take the fastest kernel for each shape, on its first call.

    Layers that are alike, as the blocks of a Transformer, are measured once.

    Args:
        model: An integer graph on the GPU; is changed.
        clock: Measures the kernels.
    """
    with_triton = has_triton()
    found: defaultdict[Hashable, Found] = defaultdict(dict)
    for layer in integer_layers(model):
        kernels: dict[str, Kernel] = {CUBLASLT: IntMm(layer)}
        if why_dense(layer.rows) is None and has_cusparselt():
            kernels[CUSPARSELT] = SparseIntMm(layer)
        if with_triton:
            from kdeploy.kernels.int8_triton import TILES, TritonProduct

            kernels |= {str(tile): TritonProduct(layer, tile) for tile in TILES}
        layer.product = Fastest(kernels, clock, found[_likeness(layer), tuple(kernels)])
    if with_triton:
        from kdeploy.kernels.int8_triton import codes_in_one_pass

        for node in model.graph.find_nodes(op="call_function", target=codes_of):
            node.target = codes_in_one_pass
        model.recompile()


def _likeness(layer: IntegerLayer) -> Hashable:
    """Return what the time of a layer depends on, beside its input."""
    epilogue = layer.epilogue
    kind = (epilogue.skip_scale is None, epilogue.has_relu, epilogue.code_scale is None)
    return tuple(layer.rows.shape), layer.window, kind


def has_triton() -> bool:
    """Tell whether Triton is installed: it comes with torch's CUDA builds for Linux."""
    return importlib.util.find_spec("triton") is not None


def has_cusparselt() -> bool:
    """Tell whether torch was built with cuSPARSELt."""
    return bool(torch.backends.cusparselt.is_available())


def layer_rows(model: nn.Module) -> list[dict[str, str]]:
    """Return for each integer layer the kernel that it took, and the times that decided."""
    return [
        {"name": layer.name, "kernel": f"int8 {_name(layer)}", "why": _why(layer)}
        for layer in integer_layers(model)
    ]


def sparse_counts(model: nn.Module) -> tuple[int, int]:
    """Return how many integer layers have 2:4 weights, and how many ran in a sparse kernel."""
    layers = [layer for layer in integer_layers(model) if is_two_four(layer.rows)]
    return len(layers), sum(_name(layer) == CUSPARSELT for layer in layers)


def _name(layer: IntegerLayer) -> str:
    product = layer.product
    return product.name if isinstance(product, Fastest) else type(product).__name__


def _why(layer: IntegerLayer) -> str:
    return layer.product.why() if isinstance(layer.product, Fastest) else ""
