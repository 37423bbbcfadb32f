"""Export a model of several inputs, for which there is no dataset and so no command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from kdeploy.export.parity import BATCH_SIZES, check_parity, parity_on
from kdeploy.export.run import ExportResult, kept_if_it_passes, result_of, write_metadata
from kdeploy.onnx_graph.checks import refused
from kdeploy.preprocessing import Inputs
from kdeploy.registry import find, validate


def export_several(
    model: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    *,
    parameters: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> ExportResult:
    """Write a model of several inputs as an ONNX file that passed the parity gate.

    The gate runs on the example and on seeded noise like it: normal numbers, and for integers
    those of the example in another order.

    Args:
        model: A torch model in evaluation mode.
        example: All that `forward` takes, in its order; two rows or more of each.
        path: The file.
        parameters: Of the target `onnx`.
        metadata: Properties to write into the file.

    Raises:
        ParityFailed: the file computes something else; nothing was left at `path`.
        ModelError: the model cannot be exported.
    """
    technique = find("exporter", "onnx")
    resolved = validate(technique.parameters, parameters, where="export.onnx")
    model = model.eval()
    with kept_if_it_passes(path) as unproven:
        technique.load()(model, example, unproven, **resolved)
        opset = write_metadata(unproven, metadata or {})
        parity = parity_on(list(_feeds(example)), model, _runner(unproven))
        check_parity(parity, name=path.name)
        return result_of(parity, unproven, path, technique.facts["runtime"], opset)


def _feeds(example: tuple[Tensor, ...]) -> Iterator[tuple[Inputs, ...]]:
    """Yield the example and noise like it at each batch size."""
    generator = np.random.default_rng(0)
    arrays = [x.numpy() for x in example]
    for size in BATCH_SIZES:
        yield tuple(np.resize(x, (size, *x.shape[1:])) for x in arrays)
        yield tuple(
            generator.standard_normal((size, *x.shape[1:]), dtype=np.float32)
            if x.dtype == np.float32
            else generator.choice(x.ravel(), (size, *x.shape[1:]))
            for x in arrays
        )


def _runner(path: Path) -> Any:
    """Return what runs the file: an array for each input, and all outputs."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base
        raise refused("ONNX Runtime", path, error) from error
    names = [i.name for i in session.get_inputs()]
    outputs = [o.name for o in session.get_outputs()]

    def run(*arrays: Inputs) -> dict[str, Any]:
        made = session.run(None, dict(zip(names, arrays, strict=True)))
        return dict(zip(outputs, made, strict=True))

    return run
