"""A `.pt2` archive of torch.export: the graph and its tensors, which torch runs without your code.

Traced with a dynamic batch, its batch norms folded in. It holds no example inputs, because they
would be pickled. https://docs.pytorch.org/docs/stable/export.html
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from kdeploy.errors import ModelError
from kdeploy.export.contract import exporter
from kdeploy.quantization.capture import capture, flat_outputs
from kdeploy.quantization.contract import quantized_by
from kdeploy.quantization.suppress_warnings import without_torch_noise
from kdeploy.torch_module.named_inputs import arguments_of, each_of


@exporter(
    source={"torch"},
    suffix=".pt2",
    runtime="torch_export",
    refuses={"int8", "int8_dynamic", "int4_weights"},
)
def torch_export_from_torch(model: nn.Module, example: Tensor, path: Path) -> None:
    """Write a float model to `path`.

    Args:
        model: In evaluation mode.
        example: Two rows of input, to trace the model with.
        path: The archive.

    Raises:
        ModelError: the model is quantized, or torch cannot trace it.
    """
    if quantized_by(model):
        raise ModelError(
            "`torch_export` takes a float model: torch would compute the quantized layers of this "
            "one in floating point",
            hint="`onnx` and `openvino` write files that run on their codes",
        )
    graph = flat_outputs(capture(model, example))
    with without_torch_noise():
        arguments, keywords = arguments_of(example)
        sizes = [{0: torch.export.Dim.DYNAMIC} for _ in each_of(example)]
        dynamic = dict(zip(keywords, sizes, strict=True)) if keywords else tuple(sizes)
        program = torch.export.export(graph, arguments, keywords, dynamic_shapes=dynamic)
        # They are rows of somebody's data, too.
        program.example_inputs = None
        torch.export.save(program, path)
