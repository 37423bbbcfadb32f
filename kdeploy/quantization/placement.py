"""Placement: which tensors of a captured graph get a quantizer, and which of them share a scale.

Quantizers stand where tensors are produced, found from the operators and not from modules, so
that a functional ReLU, an addition or a concatenation counts like any layer. A bias gets none.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from kdeploy.quantization.capture import CONVOLUTIONS
from kdeploy.quantization.observers import Range
from kdeploy.quantization.profiles import Profile, Rule
from kdeploy.quantization.rewrites import is_global_mean

aten = torch.ops.aten
# How tensors are named, as a stored model says it: 1 counted the quantized ones of one profile.
NAMING = 2
PADS = (aten.pad.default, aten.constant_pad_nd.default)
KINDS: Mapping[object, str] = {
    **dict.fromkeys(CONVOLUTIONS, "conv"),
    aten.linear.default: "linear",
    **dict.fromkeys((aten.matmul.default, aten.bmm.default), "matmul"),
    aten.add.Tensor: "add",
    aten.mul.Tensor: "mul",
    aten.sigmoid.default: "sigmoid",
    **dict.fromkeys((aten.avg_pool1d.default, aten.avg_pool2d.default), "average"),
    aten.avg_pool3d.default: "average",
    **dict.fromkeys((aten.relu.default, aten.relu6.default), "activation"),
    **dict.fromkeys((aten.hardtanh.default, aten.clamp.default), "activation"),
    **dict.fromkeys((aten.max_pool1d.default, aten.max_pool2d.default), "carrier"),
    aten.max_pool3d.default: "carrier",
    **dict.fromkeys((aten.cat.default, aten.reshape.default, aten.flatten.using_ints), "carrier"),
    **dict.fromkeys((aten.transpose.int, aten.permute.default, aten.slice.Tensor), "carrier"),
    **dict.fromkeys((aten.select.int, aten.expand.default, aten.repeat.default), "carrier"),
    **dict.fromkeys((aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims), "carrier"),
    aten.upsample_nearest2d.vec: "carrier",
    **dict.fromkeys(PADS, "carrier"),
}
SPLITS = (
    *(aten.split.Tensor, aten.split_with_sizes.default),
    *(aten.chunk.default, aten.unbind.int),
)
SOFTMAXES = (aten.softmax.int, aten._softmax.default)
WEIGHTED = ("conv", "linear")
LARGEST_RATIO = 8.0
"""Of ranges under one scale: beyond it the narrowest has fewer than 32 of 256 codes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Tensors with one scale. `sources` are computed, the others only carry their values."""

    nodes: tuple[Node, ...]
    sources: tuple[Node, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where quantizers stand."""

    groups: tuple[Group, ...]
    weighted: tuple[Node, ...]
    """Convolutions and linear layers whose input is quantized; so is their weight then."""
    names: Mapping[Node, str]
    """Of all sources, as `tensor_names` has them."""
    former_names: Mapping[Node, str]
    """The same of sources, as models were stored with that say nothing of their naming."""
    absorbed: Mapping[Node, Node]
    """Activation to the integer operator before it, whose output code may replace it."""


def place(
    graph_module: GraphModule,
    profile: Profile,
    *,
    float_layers: Collection[str] = (),
    ranges: Mapping[str, Range] | None = None,
) -> Placement:
    """Return the placement of `profile` on a captured and rewritten graph.

    Args:
        graph_module: Is left as it is.
        profile: Whose rules hold.
        float_layers: Layers, as `layer_of` names them, that no quantizer is placed for. One may
            still stand at their input or output for the sake of another operator.
        ranges: Of all tensors, by name. With them the end of a detector stays what it is: tensors
            of unlike ranges that are only concatenated to be returned keep scales of their own,
            and layers that read a softmax, the mean of a distribution, stay float. None: as models
            were stored before this was so.
    """
    nodes = [n for n in graph_module.graph.nodes if _is_activation_tensor(n)]
    kinds = {n: kind_of(n) for n in nodes}
    kinds.update({n: "" for n in nodes if kinds[n] in WEIGHTED and layer_of(n) in float_layers})
    if ranges is not None:
        kinds.update({n: "" for n in nodes if kinds[n] in WEIGHTED and _reads_softmax(n)})
    rules = {n: profile.rules[kind] for n, kind in kinds.items() if kind in profile.rules}
    if profile.absorbs_activations:
        # Fused with its activation, an operator without codes behind it would run in float.
        tailed = [n for n in rules if activation_of(n) is not None]
        rules.update({n: replace(rules[n], output=True) for n in tailed})
    names = tensor_names(graph_module)
    apart = _of_unlike_ranges(nodes, names, ranges or {})
    group_of = _shared_scales(nodes, apart)
    wanted = _wanted(nodes, group_of, rules)
    while read := {node for node in apart if group_of[node] in wanted}:
        apart -= read  # an integer operator reads the whole, which has one scale
        group_of = _shared_scales(nodes, apart)
        wanted = _wanted(nodes, group_of, rules)
    members: dict[Node, list[Node]] = {}
    for node in nodes:
        if group_of[node] in wanted:
            members.setdefault(group_of[node], []).append(node)
    groups = tuple(
        Group(nodes=tuple(m), sources=tuple(n for n in m if not carried_inputs(n)))
        for m in members.values()
    )
    return Placement(
        groups=groups,
        weighted=tuple(n for n in nodes if kinds[n] in WEIGHTED and n in rules),
        names={n: names[n] for group in groups for n in group.sources},
        former_names=numbered([n for group in groups for n in group.sources]),
        absorbed={
            tail: n
            for n in (rules if profile.absorbs_activations else ())
            if (tail := activation_of(n)) is not None
        },
    )


def layers(graph_module: GraphModule, profile: Profile) -> list[str]:
    """Return the names of the layers that `profile` runs on integers, in their order."""
    placement = place(graph_module, profile, ranges={})
    return list(dict.fromkeys(layer_of(n) for n in placement.weighted))


def layer_of(node: Node) -> str:
    """Return the name of a weighted operator's layer: the path of the module that computes it."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return (str(stack[-1][0]) if stack else "") or node.name


def kind_of(node: Node) -> str:
    """Return the kind of operator that the rules of a profile speak of, "" for any other."""
    kind = "average" if is_global_mean(node) else KINDS.get(node.target, "")
    inputs = node.all_input_nodes
    if kind in WEIGHTED:
        weight = node.args[1]
        return kind if isinstance(weight, Node) and weight.op == "get_attr" else ""
    if kind in ("add", "mul", "matmul"):
        are_tensors = len(node.args) > 1 and all(_is_activation_tensor(a) for a in node.args[:2])
        return kind if are_tensors and not node.kwargs else ""
    if node.target in PADS and not _pads_with_zeros(node):
        return ""
    return kind if inputs else ""


def _pads_with_zeros(node: Node) -> bool:
    """Return whether what is added is zero, which every range holds."""
    given = [*node.args[2:], *node.kwargs.values()]
    return all(value in ("constant", None) or value == 0 for value in given)


def activation_of(node: Node) -> Node | None:
    """Return the saturating activation that alone reads the node's output, if there is one."""
    users = list(node.users)
    return users[0] if len(users) == 1 and kind_of(users[0]) == "activation" else None


def carried_inputs(node: Node) -> list[Node]:
    """Return the tensors whose values a carrier's output consists of, none for other nodes."""
    if node.target is operator.getitem:
        split = node.args[0]
        is_split = isinstance(split, Node) and split.target in SPLITS
        return [split.args[0]] if is_split else []  # type: ignore[union-attr, list-item]
    if kind_of(node) != "carrier":
        return []
    return [n for n in node.all_input_nodes if _is_activation_tensor(n)]


def _is_activation_tensor(node: object) -> bool:
    if not isinstance(node, Node) or node.op not in ("placeholder", "call_function"):
        return False
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def _shared_scales(nodes: list[Node], apart: Collection[Node] = ()) -> dict[Node, Node]:
    """Return the first tensor of each tensor's group; carriers join their inputs' groups.

    Those in `apart` do not.
    """
    group_of = {node: node for node in nodes}
    for node in nodes:
        carried = [] if node in apart else carried_inputs(node)
        joined = {group_of[n] for n in carried if n in group_of} | {group_of[node]}
        if len(joined) > 1:
            first = next(n for n in nodes if n in joined)
            group_of.update({n: first for n, group in group_of.items() if group in joined})
    return group_of


def _of_unlike_ranges(
    nodes: list[Node], names: Mapping[Node, str], ranges: Mapping[str, Range]
) -> set[Node]:
    """Return the concatenations under whose scale some input would have almost no codes."""

    def span_of(source: Node) -> Range | tuple[()]:
        return ranges.get(names.get(source, ""), ())

    found = set()
    for node in nodes:
        if node.target is aten.cat.default:
            spans = [
                max((abs(end) for s in _sources(n) for end in span_of(s)), default=0.0)
                for n in carried_inputs(node)
            ]
            known = [span for span in spans if span > 0]
            if known and max(known) > LARGEST_RATIO * min(known):
                found.add(node)
    return found


def _sources(node: Node) -> list[Node]:
    """Return the computed tensors whose values a tensor consists of."""
    carried = carried_inputs(node)
    return [source for n in carried for source in _sources(n)] if carried else [node]


def _reads_softmax(node: Node) -> bool:
    return any(source.target in SOFTMAXES for source in _sources(node.all_input_nodes[0]))


def _wanted(nodes: list[Node], group_of: dict[Node, Node], rules: Mapping[Node, Rule]) -> set[Node]:
    """Return the groups that get a quantizer: demand flows from consumers back to producers."""
    wanted: set[Node] = set()
    before = -1
    while len(wanted) > before:
        before = len(wanted)
        for node in reversed(nodes):
            rule = rules.get(node)
            tail = activation_of(node) or node
            if rule and (rule.starts or group_of[tail] in wanted):
                wanted.update(group_of[n] for n in _wanted_inputs(node, rule))
                wanted.update({group_of[tail]} if rule.output else ())
    return wanted


def _wanted_inputs(node: Node, rule: Rule) -> list[Node]:
    inputs = [n for n in node.all_input_nodes if _is_activation_tensor(n)]
    if rule.inputs == "all":
        return inputs
    fused = [n for n in inputs if kind_of(n) in WEIGHTED and len(n.users) == 1]
    return [n for n in inputs if n not in fused[:1]]


def tensor_names(graph_module: GraphModule) -> dict[Node, str]:
    """Return a name for every tensor that the graph computes, e.g. `layer1.0.conv1`, `add#2`.

    It is the path of the module and, but for a layer, the operator's kind; the same ones are
    counted in the order of the graph, whatever any profile quantizes of them. An activation has
    the name of the operator that it alone reads.
    """
    nodes = [n for n in graph_module.graph.nodes if _is_activation_tensor(n)]
    computed = [n for n in nodes if not carried_inputs(n)]
    names = numbered([n for n in computed if activation_of(n) is None])
    tails = {n: tail for n in computed if (tail := activation_of(n)) is not None}
    return names | {n: f"{_own_name(tail)}.before_activation.{n.name}" for n, tail in tails.items()}


def numbered(nodes: Iterable[Node]) -> dict[Node, str]:
    """Return the nodes' names, with `#2`, `#3` ... behind those that several have."""
    counts: Counter[str] = Counter()
    names = {}
    for node in nodes:
        name = _own_name(node)
        counts[name] += 1
        names[node] = f"{name}#{counts[name]}" if counts[name] > 1 else name
    return names


def _own_name(node: Node) -> str:
    producer = node.all_input_nodes[0] if kind_of(node) == "activation" else node
    if producer.op == "placeholder":
        return "input"
    stack = list((producer.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    kind = kind_of(producer) or producer.name
    return path if kind in WEIGHTED and path else ".".join(filter(None, (path, kind)))
