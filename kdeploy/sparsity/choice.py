"""Choose which weights become zero: the least important, to an exact count.

Han et al., NeurIPS 2015, arXiv:1506.02626: importance is the magnitude. Sun et al. (Wanda), ICLR
2024, arXiv:2306.11695: the magnitude times the norm of the input that the weight is multiplied
with, compared within each output.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

# Of each layer, in a ranking of all layers: a layer without weights passes nothing on.
LEAST_KEPT = 0.01


def input_norms(squares: Tensor, weight: Tensor) -> Tensor:
    """Return the root mean square of the input of each weight, in the shape of `weight`.

    Args:
        squares: (groups, inputs), as `kdeploy.torch_module.input_gram.input_squares` returns them.
        weight: Of the same layer.
    """
    norms = squares.sqrt()
    return norms.repeat_interleave(len(weight) // len(norms), 0).view_as(weight)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightRanking:
    """How weights are ranked."""

    scope: Literal["local", "global"] = "global"
    """Against those of their own layer, or of all layers."""
    norms: Mapping[str, Tensor] = field(default_factory=dict)
    """Input norms in the shape of each weight; without them the magnitude alone counts."""

    def zeros(self, weights: Mapping[str, Tensor], fraction: float) -> dict[str, Tensor]:
        """Return masks of the least important weights, `fraction` of them.

        Weights that are zero already come first: a choice of more contains one of fewer.
        """
        importance = {name: self._importance(name, weight) for name, weight in weights.items()}
        if self.scope == "global":
            return _over_all(importance, fraction)
        return {name: self._within(values, fraction) for name, values in importance.items()}

    def _importance(self, name: str, weight: Tensor) -> Tensor:
        values = weight.abs().float()
        if name in self.norms:
            values = values * self.norms[name].to(values.device)
        # Below every importance: what is zero already is always chosen first.
        return values.masked_fill(weight == 0, -1.0)

    def _within(self, values: Tensor, fraction: float) -> Tensor:
        # Wanda (arXiv:2306.11695) compares the weights of one output, not of the layer.
        rows = values.flatten(1) if self.norms else values.reshape(1, -1)
        return _smallest(rows, round(fraction * rows.shape[1])).view(values.shape)


@torch.no_grad()
def set_zeros(
    model: nn.Module, names: tuple[str, ...], choice: WeightRanking, fraction: float
) -> None:
    """Set the least important of the named weights to zero, in place."""
    weights = {name: model.get_parameter(name) for name in names}
    for name, zeros in choice.zeros(weights, fraction).items():
        weights[name].masked_fill_(zeros, 0)


def _over_all(importance: Mapping[str, Tensor], fraction: float) -> dict[str, Tensor]:
    rankable = [_sparing_the_best(values.reshape(-1)) for values in importance.values()]
    together = torch.cat(rankable)
    zeros = _smallest(together[None], round(fraction * len(together)))[0]
    parts = torch.split(zeros, [len(values) for values in rankable])
    return {
        name: part.view(values.shape)
        for (name, values), part in zip(importance.items(), parts, strict=True)
    }


def _sparing_the_best(values: Tensor) -> Tensor:
    spared = math.ceil(LEAST_KEPT * len(values))
    # Infinitely important: they are sorted last.
    best = values.index_fill(0, values.topk(spared).indices, math.inf)
    return torch.where(values < 0, values, best)


def _smallest(rows: Tensor, count: int) -> Tensor:
    """Return where the `count` smallest values of each row are; of equals, the first."""
    # Stable, so that the same weights are chosen on every machine.
    order = rows.argsort(dim=1, stable=True)
    return torch.zeros_like(rows, dtype=torch.bool).scatter_(1, order[:, :count], True)
