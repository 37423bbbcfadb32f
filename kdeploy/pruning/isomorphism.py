"""Which families of channels are built alike, so that their scores can be compared.

Fang et al., Isomorphic Pruning for Vision Models, ECCV 2024, arXiv:2407.04616: scores of channels
that pass a residual sum and of those between two layers follow different distributions; a global
ranking over both empties one of them. Ranked are only those whose layers are the same.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from kdeploy.pruning.choice import Family
from kdeploy.pruning.coupling import LayerDim, PruningGroup

Kind = tuple[tuple[str, str, tuple[int, ...], bool], ...]


def kinds_of(model: nn.Module, groups: Iterable[PruningGroup]) -> dict[Family, Kind]:
    """Return what each family is made of: the layers' sides, whatever their names and widths."""
    modules = dict(model.named_modules())
    families = dict.fromkeys(group.family for group in groups)
    return {
        family: tuple(
            sorted(_facts(modules.get(layer_dim.layer), layer_dim) for layer_dim, _ in family)
        )
        for family in families
    }


def _facts(module: nn.Module | None, layer_dim: LayerDim) -> tuple[str, str, tuple[int, ...], bool]:
    kind = "parameter" if module is None else type(module).__name__
    kernel = tuple(getattr(module, "kernel_size", ()))
    return kind, layer_dim.side, kernel, getattr(module, "groups", 1) > 1
