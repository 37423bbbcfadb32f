"""Capture a model as a flat graph of functional operators with its batch norms folded in.

`torch.export` (PyTorch 2) traces the model with a dynamic batch. The graph is the same for the
same model and example, which makes the names of its tensors stable.
"""

from __future__ import annotations

import copy
import itertools
import operator
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.fx.graph import CodeGen, _PyTreeCodeGen
from torch.utils._pytree import TreeSpec, tree_leaves

from kdeploy.errors import ModelError
from kdeploy.quantization.functional import functional_graph
from kdeploy.quantization.suppress_warnings import without_torch_noise
from kdeploy.torch_module.named_inputs import arguments_of, call, each_of
from kdeploy.torch_module.named_outputs import register_dataclasses
from kdeploy.untrusted.user_code import hint_of, users_line

aten = torch.ops.aten
OPEN = torch.export.Dim.DYNAMIC
Axes: TypeAlias = Sequence[int] | Mapping[str, Sequence[int]]
CONVOLUTIONS = (
    *(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default),
    *(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding),
)
# Each with the position of its epsilon; the second returns a tuple.
BATCH_NORMS = {
    aten.batch_norm.default: 7,
    aten._native_batch_norm_legit_no_training.default: 6,
}
COPIES = (
    *(aten.clone.default, aten.alias.default, aten.contiguous.default),
    *(aten.dropout.default, aten.feature_dropout.default, aten.detach.default),
)


def capture(model: nn.Module, example: Tensor, *, axes: Axes = ()) -> GraphModule:
    """Return the model in evaluation mode as a graph.

    Of several inputs by name, `NamedTensors`, the graph is called by these names too.

    Args:
        model: Any module that `torch.export` can trace; it is left as it is.
        example: (batch, ...) of at least two rows; other batch sizes work as well.
        axes: Further ones of the example whose size is left open; of several inputs by name.

    Raises:
        ModelError: the model cannot be traced with a dynamic batch, or with open axes.
    """
    graph_module = trace(model, example, axes=axes)
    fold_constants(graph_module)
    fold_batch_norms(graph_module)
    # A fresh module: the one of torch.export refuses eval().
    return GraphModule(finish(graph_module), graph_module.graph).eval()


def trace(model: nn.Module, example: Tensor, *, axes: Axes = ()) -> GraphModule:
    """Return the graph with every operator as it is written; see `capture`."""
    try:
        with without_torch_noise():
            program = _program(copy.deepcopy(model).eval(), example, axes)
            graph_module = functional_graph(program)
    except Exception as error:  # torch.export raises many types, all meaning the same to the user
        raise ModelError(
            f"`{type(model).__name__}` cannot be traced with a dynamic batch"
            f"{f' and open axes {list(axes)}' if axes else ''}: {reason_of(error)}",
            hint=hint_of(
                error, "forward() must not branch on values, nor fix an open size in a reshape"
            ),
        ) from error
    _flatten(graph_module, program)
    _drop_copies(graph_module)
    return graph_module


def _program(model: nn.Module, example: Tensor, axes: Axes) -> ExportedProgram:
    """Return torch's own program of a model, made known to it what dataclasses the answer has."""
    arguments, keywords = arguments_of(example)
    sizes = [
        dict.fromkeys((0, *(axes.get(name, ()) if isinstance(axes, Mapping) else axes)), OPEN)
        for name, _ in each_of(example)
    ]
    open_sizes: Any = dict(zip(keywords, sizes, strict=True)) if keywords else tuple(sizes)
    try:
        return torch.export.export(model, arguments, keywords, dynamic_shapes=open_sizes)
    except Exception:  # torch.export raises many types; of most models the same once more
        with torch.no_grad():
            answer = call(model, example)
        if not register_dataclasses(answer):
            raise
    return torch.export.export(model, arguments, keywords, dynamic_shapes=open_sizes)


def reason_of(error: BaseException) -> str:
    """Return what torch.export says in one line: the constraint that does not hold, else the first.

    Where it came out of the user's code, that line stands behind it.
    A constraint is `x.size()[2]` that the code has made a constant, and stands in a list below.
    """
    lines = str(error).strip().split("\n")
    constraints = [line.strip("- ").split(" If you're")[0] for line in lines if "  - " in line]
    return ([*constraints, lines[0]][0] or type(error).__name__) + users_line(error)


def finish(graph_module: GraphModule) -> GraphModule:
    """Remove what is no longer used and compile the graph again."""
    graph_module.graph.eliminate_dead_code()
    graph_module.delete_all_unused_submodules()
    graph_module.recompile()
    return graph_module


def flat_outputs(graph_module: GraphModule) -> GraphModule:
    """Return a captured graph that returns its tensor, or a tuple of them, as nothing else."""
    flat = copy.deepcopy(graph_module)
    flat.graph.set_codegen(CodeGen())
    output = flat.graph.output_node()
    tensors = [leaf for leaf in tree_leaves(output.args[0]) if isinstance(leaf, Node)]
    output.args = (tensors[0] if len(tensors) == 1 else tuple(tensors),)
    flat.recompile()
    return flat


def constant(graph_module: GraphModule, node: Any) -> Tensor | None:
    """Return the tensor behind a parameter or buffer node, None for any other argument."""
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    value: Tensor = operator.attrgetter(str(node.target))(graph_module)
    return value.detach()


def add_constant(graph_module: GraphModule, value: Tensor, before: Node) -> Node:
    """Return a new node for a tensor that the graph shall hold."""
    # Counting them would not do: some may be gone.
    names = (f"constant_{number}" for number in itertools.count())
    name = next(name for name in names if not hasattr(graph_module, name))
    graph_module.register_buffer(name, value.contiguous())
    with graph_module.graph.inserting_before(before):
        return graph_module.graph.get_attr(name)


def fold_constants(graph_module: GraphModule) -> None:
    """Compute once what depends on parameters only, e.g. a standardised or transposed weight."""
    for node in list(graph_module.graph.nodes):
        inputs = node.all_input_nodes
        if node.op != "call_function" or not inputs or any(n.op != "get_attr" for n in inputs):
            continue
        value = node.target(
            *torch.fx.map_arg(node.args, lambda n: constant(graph_module, n)),
            **torch.fx.map_arg(node.kwargs, lambda n: constant(graph_module, n)),
        )
        if isinstance(value, Tensor):
            node.replace_all_uses_with(add_constant(graph_module, value, node))


def fold_batch_norms(graph_module: GraphModule) -> None:
    """Fold each batch norm into the convolution or linear layer before it that feeds only it."""
    for node in list(graph_module.graph.nodes):
        if node.target not in BATCH_NORMS:
            continue
        folded = folded_tensors(graph_module, node)
        if folded is None:
            continue
        layer = node.args[0]
        new = [add_constant(graph_module, tensor, layer) for tensor in folded]
        layer.args = (layer.args[0], *new, *layer.args[3:])
        normalised(node).replace_all_uses_with(layer)


def folded_tensors(graph_module: GraphModule, batch_norm: Node) -> tuple[Tensor, Tensor] | None:
    """Return weight and bias that the layer before a batch norm has with it; None: it must stay."""
    layer: Any = batch_norm.args[0]
    weight = constant(graph_module, layer.args[1]) if _is_foldable(layer) else None
    affine = batch_norm_affine(graph_module, batch_norm)
    if weight is None or affine is None:
        return None
    factor, offset = affine
    bias = constant(graph_module, layer.args[2]) if len(layer.args) > 2 else None
    new_weight = weight.double() * factor.reshape(-1, *(1 for _ in weight.shape[1:]))
    new_bias = offset if bias is None else bias.double() * factor + offset
    return new_weight.to(weight.dtype), new_bias.to(weight.dtype)


def batch_norm_affine(graph_module: GraphModule, node: Node) -> tuple[Tensor, Tensor] | None:
    """Return factor and offset (channels,), in float64, that a batch norm node multiplies, adds."""
    assert node.target in BATCH_NORMS, f"{node} is no batch norm"
    weight, bias, mean, variance = (constant(graph_module, a) for a in node.args[1:5])
    if mean is None or variance is None:
        return None
    factor = (variance.double() + float(str(node.args[BATCH_NORMS[node.target]]))).rsqrt()
    factor = factor if weight is None else factor * weight.double()
    offset = -mean.double() * factor
    return factor, offset if bias is None else offset + bias.double()


def normalised(batch_norm: Node) -> Node:
    """Return the node of the normalised tensor: the batch norm, or the first of its tuple."""
    if batch_norm.target is aten.batch_norm.default:
        return batch_norm
    return next(item for item in batch_norm.users if item.args[1] == 0)


def _is_foldable(layer: Any) -> bool:
    return (
        isinstance(layer, Node)
        and layer.target in (*CONVOLUTIONS, aten.linear.default)
        and len(layer.users) == 1
        # A linear layer's channels come last, a batch norm's second: the same only for (N, C).
        and (layer.target is not aten.linear.default or layer.meta["val"].dim() == 2)
    )


def _flatten(graph_module: GraphModule, program: ExportedProgram) -> None:
    """Let a graph of one tensor take and return it as such; one of several keeps their names."""
    output = graph_module.graph.output_node()
    tensors = [n for n in output.all_input_nodes if isinstance(n.meta.get("val"), Tensor)]
    if not tensors:
        raise ModelError(
            "the model returns no tensor",
            hint="let forward() return a tensor, or a dict, tuple, list or dataclass of tensors",
        )
    returned = program.call_spec.out_spec
    if returned is None or returned.is_leaf():
        graph_module.graph.set_codegen(CodeGen())
        output.args = (tensors[0],)
    else:
        told: Any = graph_module.graph._codegen
        trees = {name: _copied(getattr(told.pytree_info, name)) for name in ("in_spec", "out_spec")}
        graph_module.graph.set_codegen(_PyTreeCodeGen(told.pytree_info._replace(**trees)))
    graph_module.recompile()


def _copied(tree: TreeSpec) -> TreeSpec:
    """Return a tree with leaves that can be copied: of those that torch makes it warns (2.13)."""
    return TreeSpec(tree.type, tree._context, [_copied(child) for child in tree._children])


def _drop_copies(graph_module: GraphModule) -> None:
    """Remove copies, such as dropout leaves behind, and let a view work on any layout."""
    for node in list(graph_module.graph.nodes):
        if node.target in COPIES:
            node.replace_all_uses_with(node.args[0])
            graph_module.graph.erase_node(node)
        elif node.target is aten.view.default:
            node.target = aten.reshape.default
