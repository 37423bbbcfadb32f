"""INT4 weights: linear layers as codes of 4 or 8 bits, a scale a block; activations stay float.

Frantar et al., GPTQ, ICLR 2023, arXiv:2210.17323, with columns in the order of their inputs, fixed
blocks and searched scales. For language models, whose decoding waits for weights. Embeddings and a
last layer that shares their table are rounded to the nearest of 8 bits. With `recover` the model
learns on its codes from the float one: Liu et al., LLM-QAT, 2023, arXiv:2305.17888.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from kdeploy.compress.contract import CompressContext, StepTraining, compressor
from kdeploy.compress.mixed_precision import precision_of
from kdeploy.compress.weight_bits import within_drop
from kdeploy.errors import ModelError, NotCalibrated, OrderError, RecipeError
from kdeploy.quantization.activation_scaling import find_scalable, scale_activations
from kdeploy.quantization.block_rounding import BlockFormat
from kdeploy.quantization.capture import capture
from kdeploy.quantization.contract import quantized_by
from kdeploy.quantization.trained_codes import fix_codes, train_codes
from kdeploy.quantization.weight_only import (
    Rounded,
    ends_of,
    float_layers,
    on_coarse_grid,
    put_in,
    rounded_layers,
    to_nearest,
)
from kdeploy.torch_module.block_quantized import block_quantized
from kdeploy.torch_module.layer_patterns import matching

_LOG = logging.getLogger(__name__)


def holds_codes(model: nn.Module) -> None:
    """Raise AssertionError unless layers of the model are codes."""
    assert block_quantized(model), "no layer holds codes"


@compressor(paper="arXiv:2210.17323", makes="int4_weights", ensures=holds_codes)
def int4_weights(
    model: nn.Module,
    context: CompressContext,
    *,
    method: Literal["gptq", "rtn"] = "gptq",
    bits: Literal[4, 8] = 4,
    block_size: Literal[16, 32, 64, 128] = 32,
    symmetric: bool = True,
    scale_search: bool = True,
    activation_scaling: bool = False,
    embedding_bits: Literal[4, 8, 32] = 8,
    calibration_batches: Annotated[int, Field(gt=0)] = 16,
    batch_size: Annotated[int, Field(gt=0)] = 2,
    max_drop: str | None = None,
    learned: Literal["scales", "weights"] = "scales",
    ignore: tuple[str, ...] = (),
) -> nn.Module:
    """Return the model with the weights of its linear layers and embeddings as codes.

    Args:
        model: Float.
        context: The training data, whose inputs decide what rounding costs.
        method: `gptq` looks at inputs; `rtn` rounds to nearest and needs no data.
        bits: Of a code in the linear layers between the ends.
        block_size: Inputs that share a scale, stored as float16; halved where it does not divide
            a layer's inputs.
        symmetric: Zero point 2^(bits-1) everywhere; else one is stored for each block.
        scale_search: Shrink each block's range as long as the error falls.
        activation_scaling: Before rounding, let weights that meet large inputs be large, and divide
            the norm or layer before by as much (AWQ).
        embedding_bits: Of embeddings, and of a last layer that scores the same tokens; 32 leaves
            them float.
        calibration_batches: How many training batches are looked at.
        batch_size: Items in a calibration batch.
        max_drop: What validation accuracy may lose, e.g. `0.5pp`: layers whose outputs rounding
            moves most get 8 bits, as few as needed. With `gptq` alone, which measures that.
        learned: What `recover` trains beside all that is float: the blocks' scales, or the weights
            behind the codes as well, rounded in every pass.
        ignore: Layers that stay float, by name or pattern, e.g. `[lm_head, "*.down_proj"]`.

    Raises:
        OrderError: the model is quantized already.
        ModelError: it has no linear layer.
        NotCalibrated: there is no data to look at.
        RecipeError: `max_drop` with another method.
        GateFailed: the drop is too large all the same.
    """
    _check(model, context, looks=method == "gptq" or activation_scaling)
    precision = precision_of(max_drop, ignore, False, context)
    if precision.max_drop is not None and (method, bits) != ("gptq", 4):
        raise RecipeError(
            "`max_drop` chooses layers by what GPTQ at 4 bits does to their outputs",
            hint="leave `max_drop` out, or `method` and `bits` as they are",
        )
    layers = float_layers(model)
    spared = set(matching(list(layers), ignore, where="int4_weights.ignore"))
    ends = ends_of(layers)
    inner = [n for n in layers if n not in ends.names and n not in spared]
    form = BlockFormat(bits=bits, block_size=block_size, symmetric=symmetric)
    outer = [n for n in ends.names if n not in spared] if embedding_bits < 32 else []
    if not inner and not outer:
        raise ModelError(
            f"`{type(model).__name__}` has no linear layer whose weights could be codes",
            hint="`int8_ptq` quantizes convolutions; see `ignore` and `embedding_bits`",
        )
    _tell_of_source(model, inner, context)
    batches = partial(context.calibration, batch_size, calibration_batches)
    forms = dict.fromkeys(inner, form)
    teacher = copy.deepcopy(model) if context.is_recovered else None
    if activation_scaling:
        _scale(model, forms, batches, context)
    if method == "gptq":
        rounded = list(rounded_layers(model, forms, batches, search=scale_search))
    else:
        rounded = [to_nearest(n, layers[n], form, search=scale_search) for n in inner]
    coarse = BlockFormat(bits=embedding_bits, block_size=block_size, symmetric=symmetric)
    rounded += [to_nearest(n, layers[n], coarse, search=scale_search) for n in outer]
    put_in(model, rounded[len(inner) :], ends.ties)
    if precision.max_drop is not None:
        rounded[: len(inner)] = within_drop(
            model, rounded[: len(inner)], layers, context, precision.max_drop
        )
    put_in(model, rounded[: len(inner)], {})
    kept = {n: "`ignore`" if n in spared else "`embedding_bits: 32`" for n in layers}
    _report(rounded, kept, context)
    if teacher is not None:
        train_codes(model, learned)
        context.train(model, teacher, StepTraining(name="training on codes", is_last=True))
        fix_codes(model)
    elif learned != "scales":
        _LOG.warning("`learned` has no effect: nothing is trained without `recover`")
    return model


def _check(model: nn.Module, context: CompressContext, *, looks: bool) -> None:
    if by := quantized_by(model):
        raise OrderError(
            f"the model is quantized already (`{by}`): rounding it again adds a second error",
            hint="leave one of the two steps out",
        )
    if looks and not len(context.data.train) and context.data.unlabelled is None:
        raise NotCalibrated(
            f"`{context.data.name}` has no training items whose inputs could be looked at",
            hint="`method: rtn` without `activation_scaling` needs none",
        )


def _scale(
    model: nn.Module,
    forms: Mapping[str, BlockFormat],
    batches: Callable[[], Iterable[Tensor]],
    context: CompressContext,
) -> None:
    found = find_scalable(capture(model, context.example), model)
    powers = scale_activations(model, found, forms, batches)
    if not powers:
        _LOG.warning("`activation_scaling` has no effect: no norm or product feeds layers alone")
    context.report["activation_scaling"] = [
        {"layers": ", ".join(one.layers), "power": powers[one.layers[0]]}
        for one in found
        if one.layers[0] in powers
    ]


def _tell_of_source(model: nn.Module, names: list[str], context: CompressContext) -> None:
    """Say where weights come out of a file of 4 bits: that error is in the model already."""
    found = on_coarse_grid(model, names)
    if not found:
        return
    context.report["source_grid"] = [{"layers": len(found), "of": len(names), "first": found[0]}]
    _LOG.warning(
        "the weights of %d of %d layers (`%s` first) lie on 16 levels a block of 32 already, as "
        "those of a 4-bit file: they are rounded a second time, and compared with what they are",
        *(len(found), len(names), found[0]),
    )


def _report(rounded: list[Rounded], kept: dict[str, str], context: CompressContext) -> None:
    rows: list[dict[str, str | int]] = []
    for one in rounded:
        error = "" if one.output_error is None else f"{one.output_error:.3g}"
        row: dict[str, str | int] = {"layer": one.name}
        row |= {"bits": one.form.bits, "output_error": error, "why": ""}
        if one.error_at_4_bits is not None:
            row |= {"error_at_4_bits": f"{one.error_at_4_bits:.3g}", "why": "`max_drop`"}
        rows.append(row)
        kept.pop(one.name, None)
    rows += [{"layer": n, "bits": 32, "output_error": "", "why": why} for n, why in kept.items()]
    context.report["int4_weights"] = rows
