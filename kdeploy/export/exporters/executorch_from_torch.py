"""ExecuTorch's `.pte`: what phones and embedded Linux run, its layers in XNNPACK's kernels.

A quantized model is written in the profile `xnnpack`, with the ranges that it has: not ExecuTorch's
own quantizer. What is left outside XNNPACK runs in ExecuTorch's portable kernels; a layer on
integers left there would run in none. https://docs.pytorch.org/executorch
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kdeploy.errors import MissingDependency, ModelError
from kdeploy.export.batch_views import write_batch_views
from kdeploy.export.contract import exporter
from kdeploy.export.fixed_ranges import with_fixed_ranges
from kdeploy.export.io_signature import IOSignature, ends_of
from kdeploy.quantization.capture import capture, flat_outputs
from kdeploy.quantization.pt2e import QuantizedModel
from kdeploy.quantization.suppress_warnings import without_converter_noise
from kdeploy.runtimes.pte_ends import METHOD, PteEnds
from kdeploy.tensor_info import TensorInfo
from kdeploy.untrusted.user_code import described

# torch chooses kernels of convolutions by whether a batch is smaller, and bounds the batch by it.
SMALL_BATCH = 16


@exporter(
    source={"torch"},
    suffix=".pte",
    runtime="executorch",
    refuses={"int8_dynamic", "int4_weights"},
)
def executorch_from_torch(
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
        path: The `.pte` file.
        profile: The encoding of a quantized model; its ranges are written anew in it.
        max_batch: The largest batch that it takes; 1 fixes the batch, and more of some models lies
            inside XNNPACK then.

    Raises:
        MissingDependency: ExecuTorch is not installed.
        ModelError: it cannot lower the model, or would leave a quantized layer to no kernel.
    """
    model = with_fixed_ranges(model, target="executorch", profile=profile)
    names = ends_of(model, (example,))
    captured = model.graph if isinstance(model, QuantizedModel) else capture(model, example)
    graph = write_batch_views(flat_outputs(captured))
    ends = _ends(graph, names, example, is_fixed=max_batch == 1)
    path.write_bytes(_lowered(graph, example, max_batch, ends, type(model)))


def _lowered(
    graph: nn.Module, example: Tensor, max_batch: int, ends: PteEnds, kind: type[nn.Module]
) -> bytes:
    with without_converter_noise():
        try:
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
            from executorch.exir.passes import MemoryPlanningPass
        except ImportError as error:
            raise MissingDependency.named(
                "executorch", needed_for="`executorch`", pip="'kdeploy[executorch]'"
            ) from error
        try:
            edge = to_edge_transform_and_lower(
                _program(graph, example, max_batch),
                partitioner=[XnnpackPartitioner()],
                constant_methods={METHOD: ends.text()},
            )
            _check_left_over(edge.exported_program().graph_module)
            # The caller's arrays are used as they are, and not copied into memory planned for the
            # largest batch.
            planning = MemoryPlanningPass(alloc_graph_input=False, alloc_graph_output=False)
            config = ExecutorchBackendConfig(memory_planning_pass=planning)
            return bytes(edge.to_executorch(config).buffer)
        except ModelError:
            raise
        except Exception as error:  # its passes raise what they like, all meaning the same
            raise ModelError(
                f"ExecuTorch cannot lower `{kind.__name__}`: {described(error)[:500]}",
                hint="`onnx`, `ort_format` and `openvino` take other operators; --debug shows "
                "where it stopped",
            ) from error


def _program(graph: nn.Module, example: Tensor, max_batch: int) -> Any:
    if max_batch == 1:
        return torch.export.export(graph, (example[:1],))
    rows = 2 if max_batch < SMALL_BATCH else SMALL_BATCH
    repeated = example.repeat(-(-rows // len(example)), *(1 for _ in example.shape[1:]))[:rows]
    # A range of one size would be no range.
    batch = torch.export.Dim("batch", min=1, max=max(max_batch, rows + 1))
    return torch.export.export(graph, (repeated,), dynamic_shapes=({0: batch},))


def _ends(graph: nn.Module, names: IOSignature, example: Tensor, *, is_fixed: bool) -> PteEnds:
    """Return what the file tells of its inputs and outputs, found by running the graph once."""
    with torch.no_grad():
        answer = graph(example)
    tensors = (answer,) if isinstance(answer, Tensor) else answer
    batch = 1 if is_fixed else "batch"

    def info(name: str, tensor: Tensor) -> TensorInfo:
        dtype = str(tensor.dtype).removeprefix("torch.")
        return TensorInfo(name=name, shape=(batch, *tensor.shape[1:]), dtype=dtype)

    return PteEnds(
        inputs=tuple(map(info, names.inputs, (example,))),
        outputs=tuple(map(info, names.outputs, tensors)),
    )


def _check_left_over(graph_module: Any) -> None:
    """Refuse a graph with quantizers outside XNNPACK: their kernels do not come with ExecuTorch.

    With the portable ones some end the process, and all compute the layer between them in float.
    """
    calls = [n for n in graph_module.graph.nodes if n.op == "call_function"]
    left = [n for n in calls if "quantize" in str(n.target)]
    if left:
        readers = {_name(user) for n in left for user in n.users if user not in left}
        raise ModelError(
            f"XNNPACK leaves {len(left)} quantizers outside, beside {', '.join(sorted(readers))}: "
            "nothing would compute them on integers",
            hint="keep the layers there float: `ignore` of `int8_ptq`; or export `onnx`",
        )


def _name(node: Any) -> str:
    """Return what an operator is called without its signature."""
    return str(getattr(node.target, "__name__", node.target)).split(":")[0]
