"""An ONNX file whose attention, layer norms and activations are fused, for ONNX Runtime only.

onnxruntime's transformer optimizer, and attention that it does not know as kdeploy fuses it
(`attention_fusion.py`). The operators are ONNX Runtime's own (com.microsoft), which TensorRT does
not know, and OpenVINO in part.
https://onnxruntime.ai/docs/performance/transformers-optimization.html
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import onnx
from onnx import ModelProto
from pydantic import Field
from torch import Tensor

from kdeploy.errors import ModelError
from kdeploy.export.contract import exporter
from kdeploy.onnx_graph.attention_fusion import Fusion, fuse_attention
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.onnx_graph.operators import is_quantized

logger = logging.getLogger(__name__)
AUTO = "bert"  # its patterns for what is not attention fit the most models
ATTENTION = ("Attention", "MultiHeadAttention")


@exporter(source={"onnx"}, suffix=".onnx", runtime="onnxruntime_cpu")
def transformers_optimized_from_onnx(
    model: OnnxModel,
    example: Tensor,
    path: Path,
    *,
    profile: Literal["cpu", "tensorrt", "arm"] = "cpu",
    opset: Annotated[int, Field(ge=17, le=21)] | None = None,
    dynamic: tuple[Literal["height", "width", "length"], ...] = (),
    model_type: Literal[
        "auto", "bart", "bert", "clip", "conformer", "gpt2", "mmdit", "swin", "t5", "vit"
    ] = "auto",
    num_heads: Annotated[int, Field(ge=0)] = 0,
    hidden_size: Annotated[int, Field(ge=0)] = 0,
) -> None:
    """Write `path`; how many operators were fused is logged, and a property of the file.

    Args:
        model: An ONNX file.
        example: Not needed: the file knows its input.
        path: The file.
        profile: The encoding of a quantized model, as of `onnx`.
        opset: The ONNX operator set of the file that it is made of, as of `onnx`.
        dynamic: Which sizes are left open beside the batch, as of `onnx`.
        model_type: The patterns to look for; `auto` takes those that fit the most models.
        num_heads: Heads of each attention; 0: read from the graph.
        hidden_size: Width of the hidden state; 0: read from the graph.

    Raises:
        ModelError: nothing in the model can be fused.
    """
    del example, profile, opset, dynamic  # the file was made with them
    sizes = {"num_heads": num_heads, "hidden_size": hidden_size}
    source = onnx.load(model.path)
    kind = AUTO if model_type == "auto" else model_type
    fusion = Fusion(found=0, left=())
    tried = [_optimized(source, kind, sizes)]
    if not _is_on_integers(source):
        ours, fusion = fuse_attention(source)
        tried += [_optimized(ours, kind, sizes)] if fusion.fused else []
    # Of equals the first, the library's alone.
    best = max(tried, key=lambda candidate: _rank(_fused(source, candidate)))
    fused = _fused(source, best)
    if not fused:
        raise ModelError(
            f"`transformers_optimized`: nothing in the model can be fused (`model_type: "
            f"{model_type}`); it has {len(source.graph.node)} operators and none is part of an "
            "attention block that ONNX Runtime knows",
            hint="export it as `onnx`; for a transformer try another `model_type`",
        )
    told = ", ".join(f"{n} {kind}" for kind, n in sorted(fused.items()))
    logger.info("fused: %s", told)
    properties = {"kdeploy.fused": told}
    if fusion.found:
        num_fused = _rank(fused)[0]
        properties["kdeploy.fused_attention"] = f"{num_fused} of {fusion.found}"
        logger.info("fused attention: %d of %d", num_fused, fusion.found)
        if num_fused < fusion.found:
            _tell(fusion)
    known = {p.key: p.value for p in best.metadata_props}
    onnx.helper.set_model_props(best, {**known, **properties})
    onnx.save(best, path)


def _tell(fusion: Fusion) -> None:
    """Say once for each reason how many attentions stay as they are."""
    for reason, count in Counter(fusion.left).items():
        logger.warning("attention that stays as it is: %d, %s", count, reason)


def _is_on_integers(source: ModelProto) -> bool:
    """Say whether attention may multiply integers, for which the fused operator has no kernel."""
    return is_quantized(node.op_type for node in source.graph.node)


def _optimized(source: ModelProto, model_type: str, sizes: dict[str, int]) -> ModelProto:
    """Return the model after the library's optimizer, which changes what it is given."""
    from onnxruntime.transformers import optimizer

    given = ModelProto()
    given.CopyFrom(source)
    # It warns of models that another program than torch wrote, by the name of the program.
    given.producer_name = ""
    with _quiet():
        # opt_level 0: ONNX Runtime's own optimisations are for the machine that opens the file.
        result: Any = optimizer.optimize_model(given, model_type, opt_level=0, **sizes)
    result.model.producer_name = source.producer_name
    optimized: ModelProto = result.model
    return optimized


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop the progress bar of `mmdit`, and its warning of runtimes that are years old."""
    noisy = logging.getLogger("onnx_model_mmdit")
    before = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        noisy.setLevel(before)


def _fused(source: ModelProto, optimized: ModelProto) -> Counter[str]:
    """Return how many operators of each kind stand for several of the source."""
    before, after = (Counter(n.op_type for n in m.graph.node) for m in (source, optimized))
    own = {n.op_type for n in optimized.graph.node if n.domain == "com.microsoft"}
    return Counter({k: n for k, n in (after - before).items() if k in own | {"LayerNormalization"}})


def _rank(fused: Counter[str]) -> tuple[int, int]:
    return sum(fused[kind] for kind in ATTENTION), fused.total()
