"""Which layers get 8 bits where 4 cost too much: those whose outputs rounding moves most.

Layers that are given the same inputs go together, because graphs join them to one product. How many
of them there have to be is found by bisection on the validation part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from kdeploy.compress.contract import CompressContext
from kdeploy.compress.mixed_precision import LayerSearch, SearchWords
from kdeploy.quantization.weight_only import Floats, Rounded, put_in, to_nearest

WORDS = SearchWords(
    step="a model of 4-bit weights",
    spared="8-bit",
    hint="allow more (`max_drop`), or take smaller blocks (`block_size: 16`)",
)


def within_drop(
    model: nn.Module,
    rounded: Sequence[Rounded],
    floats: Mapping[str, Floats],
    context: CompressContext,
    max_drop: float,
) -> list[Rounded]:
    """Return the layers, as few of them as needed at 8 bits; `model` holds some of them afterwards.

    Args:
        model: Float, ready but for these layers.
        rounded: Layers at 4 bits, with the errors of their outputs.
        floats: The same layers as they were.
        context: Validation data, and where it is told.
        max_drop: Of validation accuracy, as a fraction.

    Raises:
        GateFailed: the drop is too large with all groups but one at 8 bits.
    """
    groups: dict[str, list[Rounded]] = {}
    for one in rounded:
        groups.setdefault(one.beside or one.name, []).append(one)
    ranking = sorted(groups, key=lambda name: -sum(r.output_error or 0 for r in groups[name]))
    fine = {r.name: _with_eight_bits(r, floats[r.name]) for r in rounded}

    def chosen(spared: Sequence[str]) -> list[Rounded]:
        return [fine[r.name] if (r.beside or r.name) in spared else r for r in rounded]

    def with_eight(spared: Sequence[str]) -> nn.Module:
        put_in(model, chosen(spared), {})
        return model

    search = LayerSearch(with_eight, model, context, max_drop, ranking, words=WORDS)
    search.run(with_eight(()))
    context.report["weight_bits"] = search.tried
    return chosen(ranking[: search.count])


def _with_eight_bits(rounded: Rounded, layer: Floats) -> Rounded:
    finer = to_nearest(rounded.name, layer, replace(rounded.form, bits=8))
    return replace(finer, error_at_4_bits=rounded.output_error)
