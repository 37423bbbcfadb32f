"""The parity of a written file: what it is run on, and which yardstick its kind of model has.

A quantized model is measured in distances to what it rounds. Of a torch model that is its float
base; of a file it is the file itself without the quantizers of its activations: a file written in
another encoding may be as far from it as rounding is. Where weights alone are codes, a kernel may
round a layer's inputs to 8 bits, block by block: the yardstick is the model that does, in the way
that moves it most of those that kernels are known to have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from kdeploy.data.contract import Dataset
from kdeploy.errors import ModelError
from kdeploy.export.io_signature import AXES
from kdeploy.export.parity import BATCH_SIZES, Parity, Run, measure_parity
from kdeploy.named_arrays import NamedArrays, by_name, in_memory
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.preprocessing import Preprocessing
from kdeploy.quantization.contract import is_wrapped
from kdeploy.registry import Technique
from kdeploy.runtimes.run import open_runtime
from kdeploy.torch_module.block_quantized import block_quantized, with_rounded_inputs

MOST_ANSWER_BYTES = 2**28
"""Of the answers to one batch; several of them are held at once."""


def parity_of(
    file: Path,
    runtime: str,
    model: nn.Module,
    data: Dataset,
    *,
    dynamic: tuple[str, ...] = (),
    is_half: bool = False,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> Parity:
    """Return how far a file is from its model: all its outputs, and at larger open sizes too."""
    session = open_runtime(runtime, file)
    base = _base(model)
    try:
        found = [
            measure_parity(
                model, session.infer, data, base=base, is_half=is_half, batch_sizes=batch_sizes
            )
        ]
        if dynamic:
            found.append(_parity_of_larger(model, session.infer, _larger(data, dynamic), base))
    finally:
        session.close()
    # The one that is closest to failing, or fails by most.
    return max(found, key=lambda parity: parity.max_abs / parity.bound)


def conditions(
    technique: Technique, parameters: Mapping[str, Any], model: nn.Module, data: Dataset
) -> dict[str, Any]:
    """Return the keywords of `parity_of` for what an exporter wrote with these parameters."""
    half = technique.facts.get("rounds_to_half", False)
    return {
        "dynamic": tuple(parameters.get("dynamic", ())),
        "is_half": bool(parameters[half] if isinstance(half, str) else half),
        "batch_sizes": _affordable(_batch_sizes(model, parameters), data),
    }


def _affordable(sizes: Sequence[int], data: Dataset) -> list[int]:
    """Return the sizes of which all answers fit into memory: scores of every token are many."""
    known, item_bytes = data.preprocessing, 0
    if known.is_tokens and data.validation.y.ndim == 2:
        item_bytes = 8 * known.vocabulary * math.prod(known.shape)  # compared in float64
    fitting = [size for size in sizes if size * item_bytes <= MOST_ANSWER_BYTES]
    return fitting or list(sizes[:1])


def _batch_sizes(model: nn.Module, parameters: Mapping[str, Any]) -> list[int]:
    """Return what the gate runs at once: its own sizes, brought into what the file takes."""
    fixed = model.batch_size if isinstance(model, OnnxModel) else None
    smallest = fixed or parameters.get("min_batch", min(BATCH_SIZES))
    largest = fixed or parameters.get("max_batch", max(BATCH_SIZES))
    return sorted({min(max(size, smallest), largest) for size in BATCH_SIZES})


def _parity_of_larger(model: nn.Module, run: Run, data: Dataset, base: nn.Module | None) -> Parity:
    try:
        return measure_parity(model, run, data, base=base)
    except RuntimeError as error:  # of torch
        raise ModelError(
            f"the model cannot run items of shape {data.preprocessing.told_shape()}, so their size "
            f"cannot be left open: {str(error).partition(chr(10))[0]}",
            hint="a quantized model keeps the sizes that its graph was traced with: leave "
            "`dynamic` out, or export the float model",
        ) from error


class RoundedInputs(nn.Module):
    """A model with layers on codes whose inputs are rounded, in the way that moves it most.

    A text on which activations become huge is moved by any rounding, and by each otherwise.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.exact = model
        self.ways = nn.ModuleList(
            [
                with_rounded_inputs(model),
                with_rounded_inputs(model, block_size=32, has_half_scales=True),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores (batch, tokens, vocabulary) that are furthest from the model's."""
        exact = self.exact(x)
        found: list[Tensor] = [way(x) for way in self.ways]
        return max(found, key=lambda scores: float((scores - exact).abs().max()))


def _base(model: nn.Module) -> nn.Module | None:
    """Return what a quantized model rounds, None for a float one."""
    if is_wrapped(model):
        return model.base
    if block_quantized(model):
        return RoundedInputs(model)
    if not isinstance(model, OnnxModel):
        return None
    import onnx
    import onnx_ir as ir

    from kdeploy.onnx_graph.encodings import profile_of, without_rounding
    from kdeploy.onnx_graph.passes import rewritten

    program = onnx.load(model.path)
    if profile_of(ir.from_proto(program)) is None:
        return None
    base = rewritten(program, without_rounding)
    return OnnxModel.written_by(lambda path: onnx.save(base, path))


def _larger(data: Dataset, dynamic: tuple[str, ...]) -> Dataset:
    """Return some of the data with items twice as large along the open axes."""
    x, known = in_memory(data.validation.x[: max(BATCH_SIZES)]), data.preprocessing
    y = data.validation.y[: len(x)]
    grown = {name: _grown(array, dynamic, known.inputs.get(name)) for name, array in by_name(x)}
    shapes = {name: tuple(array.shape[1:]) for name, array in grown.items()}
    inputs = {name: replace(one, shape=shapes[name]) for name, one in known.inputs.items()}
    return replace(
        data,
        validation=replace(
            data.validation, x=cast("Any", NamedArrays(grown)) if inputs else grown[""], y=y
        ),
        preprocessing=replace(known, shape=shapes.get("", ()), inputs=inputs),
    )


def _grown(x: NDArray[Any], dynamic: tuple[str, ...], known: Preprocessing | None) -> NDArray[Any]:
    """Return items twice as large along the open axes; a vector among several inputs has none."""
    if known is not None and not known.is_tokens and x.ndim == 2:
        return x
    for name in dynamic:
        if x.ndim in AXES[name]:
            # Repeated, not made up: values stay those of real items.
            x = np.repeat(x, 2, axis=AXES[name][x.ndim])
    return x
