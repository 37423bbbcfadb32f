"""LiteRT's `.tflite`, formerly TensorFlow Lite: for phones and small boards, in XNNPACK's kernels.

A quantized model is written in the profile `xnnpack`, with the ranges that it has: not by a
quantizer of LiteRT's. Its inputs and outputs are int8 codes then. A device needs one wheel and
numpy; the converter weighs some 770 MB. https://github.com/google-ai-edge/litert-torch
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.fx import GraphModule

from kdeploy.errors import MissingDependency, ModelError
from kdeploy.export.batch_views import write_batch_views
from kdeploy.export.contract import exporter
from kdeploy.export.fixed_ranges import with_fixed_ranges
from kdeploy.export.io_signature import INPUT, ends_of
from kdeploy.quantization.capture import capture, flat_outputs
from kdeploy.quantization.pt2e import QuantizedModel
from kdeploy.quantization.suppress_warnings import without_converter_noise
from kdeploy.runtimes.run import open_runtime
from kdeploy.untrusted.user_code import described


@exporter(
    source={"torch"},
    suffix=".tflite",
    runtime="litert",
    refuses={"int8_dynamic", "int4_weights"},
)
def litert_from_torch(
    model: nn.Module,
    example: Tensor,
    path: Path,
    *,
    profile: Literal["xnnpack"] = "xnnpack",
    max_batch: Annotated[int, Field(ge=1, le=4096)] = 32,
) -> None:
    """Write `path`, float or INT8.

    Args:
        model: In evaluation mode, of one input.
        example: Two rows of input, to trace the model with.
        path: The `.tflite` file.
        profile: The encoding of a quantized model; its ranges are written anew in it.
        max_batch: The largest batch that it is traced and proven for; 1 fixes the batch.

    Raises:
        MissingDependency: the converter is not installed.
        ModelError: it cannot convert the model, or made a quantized layer float.
    """
    model = with_fixed_ranges(model, target="litert", profile=profile)
    names = ends_of(model, (example,)).outputs
    is_int8 = isinstance(model, QuantizedModel)
    # The converter knows weights by the quantizers behind them, and no codes.
    graph = model.unfolded() if isinstance(model, QuantizedModel) else capture(model, example)
    flat = write_batch_views(flat_outputs(graph))
    content = _converted(_Named(flat, names), example, max_batch, is_int8=is_int8)
    path.write_bytes(content)
    _check(path, _num_integer_layers(flat) if is_int8 else 0, is_fixed=max_batch == 1)


class _Named(nn.Module):
    """A graph that returns its tensors by name, for the file's signature."""

    def __init__(self, graph: GraphModule, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = graph, names

    def forward(self, input: Tensor) -> dict[str, Tensor]:
        answer = self.model(input)
        tensors = (answer,) if isinstance(answer, Tensor) else answer
        return dict(zip(self.names, tensors, strict=True))


def _converted(model: nn.Module, example: Tensor, max_batch: int, *, is_int8: bool) -> bytes:
    with without_converter_noise():
        try:
            import litert_torch
        except ImportError as error:
            raise MissingDependency.named(
                "litert_torch", needed_for="`litert`", pip="'kdeploy[litert]'"
            ) from error
        litert_torch.config.show_progress = False
        # A range of one size would be no range.
        batch = torch.export.Dim("batch", min=1, max=max(max_batch, len(example) + 1))
        try:
            converted = litert_torch.convert(
                model.eval(),
                sample_kwargs={INPUT: example[:1] if max_batch == 1 else example},
                enable_x64=example.dtype == torch.int64,
                dynamic_shapes=None if max_batch == 1 else {INPUT: {0: batch}},
                **({"quant_config": _static_quantization()} if is_int8 else {}),
            )
            return bytes(converted.model_content())
        except Exception as error:  # its passes raise what they like, all meaning the same
            raise ModelError(
                f"LiteRT's converter cannot write the model: {described(error)[:500]}",
                hint="`max_batch: 1` leaves no size open; `onnx` and `executorch` take other "
                "operators",
            ) from error


def _static_quantization() -> Any:
    """Return the configuration without which the converter leaves every layer in float."""
    from litert_torch.quantize.pt2e_quantizer import (
        PT2EQuantizer,
        get_symmetric_quantization_config,
    )
    from litert_torch.quantize.quant_config import QuantConfig

    ours = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False)
    return QuantConfig(pt2e_quantizer=PT2EQuantizer().set_global(ours))


def _num_integer_layers(graph: GraphModule) -> int:
    """Return how many layers the graph quantizes the weights of."""
    calls = [n for n in graph.graph.nodes if n.op == "call_function"]
    return sum("dequantize_per_channel" in str(n.target) for n in calls)


def _check(path: Path, wanted: int, *, is_fixed: bool) -> None:
    """Refuse a file that does not open, or in which quantized layers are float.

    The latter would be slower than a float one.
    """
    try:
        opened = open_runtime("litert", path, threads=1)
    except ModelError as error:
        if is_fixed:
            raise
        raise ModelError(
            f"LiteRT's converter fixed the batch where it was to stay open: {error.message}",
            hint="`max_batch: 1` writes a file of one row: it cannot flatten rows of an open batch",
        ) from error
    proof = opened.proof_of_use()
    opened.close()
    if proof.integer < wanted:
        raise ModelError(
            f"LiteRT's converter made {wanted - proof.integer} of {wanted} quantized layers float "
            f"({', '.join(f'{n} {name}' for name, n in proof.operators.items())})",
            hint="keep those layers float before: `ignore` of `int8_ptq`; or export `executorch`",
        )
