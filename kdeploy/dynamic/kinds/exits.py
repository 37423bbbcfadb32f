"""Early exits: a network that was trained to answer after some of its layers, cut behind them.

Deep supervision puts the heads on (scheme `self_exits`); an item leaves at the first exit that is
sure, and what goes on pays for the rest alone: nothing is computed twice, as a cascade does. That
saves most in deep networks with cheap beginnings.
"""

from __future__ import annotations

from pathlib import Path

from kdeploy.dynamic.contract import DynamicContext, dynamic
from kdeploy.errors import ModelError
from kdeploy.onnx_graph.cuts import cut
from kdeploy.onnx_graph.facts import outputs_of
from kdeploy.runtimes.dynamic_file import MOST_PARTS, Part, part_paths
from kdeploy.store.artifact import file_sha256


@dynamic(paper="arXiv:1709.01686")
def exits(
    context: DynamicContext, path: Path, *, layers: tuple[str, ...] = (), model: str = "student"
) -> tuple[Part, ...]:
    """Write the parts of a network beside `path`, each up to one of its exits; return them.

    Args:
        context: Makes the file of a network with its exits.
        path: Of the dynamic model.
        layers: Those that have the exits, in the order of the forward pass; none: all that do.
        model: Its label; it was trained by the scheme `self_exits`.

    Raises:
        UnknownName: no model is called so, or a layer has no exit.
        ModelError: the model has no exits, or too many.
    """
    whole, found = context.with_exits(model, layers)
    if len(found) >= MOST_PARTS:
        raise ModelError(
            f"{len(found)} exits make {len(found) + 1} parts, and {MOST_PARTS} are the most",
            hint="name those that matter: `exits: [layer1, layer2]`",
        )
    outputs = [info.name for info in outputs_of(whole)]
    targets = part_paths(path, len(outputs))
    pieces = cut(whole, outputs, targets)
    return tuple(
        Part(
            label=label,
            sha256=file_sha256(target),
            takes={name: name for name in piece.takes},
            logits=output,
        )
        for label, target, piece, output in zip(
            [*found, model], targets, pieces, outputs, strict=True
        )
    )
