"""Export a model of several inputs, for which there is no dataset and so no command."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from kdeploy.errors import UnknownName
from kdeploy.export.io_signature import IOSignature, batch_axis, ends_of, num_rows
from kdeploy.export.parity import BATCH_SIZES, check_parity, parity_on
from kdeploy.export.run import ExportResult, kept_if_it_passes, result_of, write_metadata
from kdeploy.onnx_graph.checks import refused
from kdeploy.preprocessing import Inputs
from kdeploy.registry import find, validate
from kdeploy.torch_module.named_outputs import named_outputs

NUM_CALLS = 3  # a state that is lost or wrong shows at the second


def export_several(
    model: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    *,
    parameters: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
    state: Mapping[str, str] | None = None,
) -> ExportResult:
    """Write a model of several inputs as an ONNX file that passed the parity gate.

    The gate runs on the example and on seeded noise like it: normal numbers, and for integers
    those of the example in another order.

    Args:
        model: A torch model in evaluation mode.
        example: All that `forward` takes, in its order; two rows or more of each. The first tensor
            has its rows first; of the others they are the first axis of as many, so that a state
            may be (layers, batch, width): take a number of rows that no other size has. A scalar is
            the same for all rows.
        path: The file.
        parameters: Of the target `onnx`.
        metadata: Properties to write into the file.
        state: What goes out and in again at the next call, by the names of the output and of the
            input. The gate then also runs three calls in a row, the file with its own state and the
            model with its own.

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
        run, feeds = _runner(unproven), list(_feeds(example))
        parity = parity_on(feeds, model, run)
        check_parity(parity, name=path.name)
        if state:
            ends = ends_of(model, example)
            _check_state(state, ends)
            in_a_row = _InARow(model, ends.inputs, state)
            steps = parity_on(feeds, in_a_row, partial(_run_in_a_row, run, ends.inputs, state))
            check_parity(steps, name=f"{path.name}, {NUM_CALLS} calls in a row")
            # The worse in its own bound: the two bounds may differ.
            parity = max(parity, steps, key=lambda one: one.max_abs / one.bound)
        return result_of(parity, unproven, path, technique.facts["runtime"], opset)


class _InARow(nn.Module):
    """Calls a model several times, with its state carried on, and returns all its answers."""

    def __init__(self, model: nn.Module, inputs: Sequence[str], state: Mapping[str, str]) -> None:
        super().__init__()
        self.model, self.inputs, self.state = model, inputs, state

    def forward(self, *given: Tensor) -> dict[str, Tensor]:
        def call(feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return named_outputs(self.model(*(feeds[name] for name in self.inputs)))

        return _calls(call, dict(zip(self.inputs, given, strict=True)), self.state)


def _run_in_a_row(
    run: Callable[..., dict[str, Any]],
    inputs: Sequence[str],
    state: Mapping[str, str],
    *given: Inputs,
) -> dict[str, Any]:
    def call(feeds: Mapping[str, Any]) -> dict[str, Any]:
        return run(*(feeds[name] for name in inputs))

    return _calls(call, dict(zip(inputs, given, strict=True)), state)


def _calls(
    call: Callable[[Mapping[str, Any]], dict[str, Any]],
    feeds: dict[str, Any],
    state: Mapping[str, str],
) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for number in range(NUM_CALLS):
        answer = call(feeds)
        answers |= {f"{name} of call {number + 1}": value for name, value in answer.items()}
        feeds |= {into: answer[out] for out, into in state.items()}
    return answers


def _check_state(state: Mapping[str, str], ends: IOSignature) -> None:
    for out, into in state.items():
        for name, known, what in ((out, ends.outputs, "output"), (into, ends.inputs, "input")):
            if name not in known:
                raise UnknownName.among(what, name, known)


def _feeds(example: tuple[Tensor, ...]) -> Iterator[tuple[Inputs, ...]]:
    """Yield the example and noise like it at each batch size."""
    generator = np.random.default_rng(0)
    rows = num_rows(example)
    for size in BATCH_SIZES:
        given = [_of_rows(x, size, batch_axis(x, rows)) if x.dim() else x.numpy() for x in example]
        yield tuple(given)
        yield tuple(
            generator.standard_normal(x.shape, dtype=np.float32)
            if x.dtype == np.float32
            # Integers may be indices: only those of the example are known to be in range.
            else generator.choice(x.ravel(), x.shape)
            for x in given
        )


def _of_rows(tensor: Tensor, count: int, axis: int) -> Inputs:
    """Return as many rows, the example's own in their order and again from the first."""
    return tensor.numpy().take(np.arange(count) % tensor.shape[axis], axis=axis)


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
