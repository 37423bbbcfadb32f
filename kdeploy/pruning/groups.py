"""Pruning groups: which channels of which sides of layers go together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class LayerDim(NamedTuple):
    """One side of a layer. Where both sides are one (batch norm, depthwise), it is "out".

    Other sides are what attention needs: "number", where `layer` is the path of an attribute that
    counts channels; "product" and "scaled product", of outputs that are summed as products with
    those of another layer; "unscaled", of a layer that makes up for scaled inputs. A parameter that
    belongs to no layer has "dimension 0", "dimension 1" ...: the one that its channels are.
    """

    layer: str
    side: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningGroup:
    """Channels that can only be removed together."""

    channels: Mapping[LayerDim, tuple[int, ...]]
    shares: Mapping[str, tuple[int, ...]]
    """By a side of a grouped layer: how many of its channels in each of the layer's own groups are
    among these. Each of those must lose the same number."""

    @property
    def family(self) -> tuple[tuple[LayerDim, int], ...]:
        """Return what makes groups alike: the sides of layers, and the channels in each."""
        return tuple((layer_dim, len(indices)) for layer_dim, indices in self.channels.items())

    @property
    def width(self) -> int:
        """Return the channels that go; a flattened map has several numbers for one of them."""
        return min(
            len(at) for layer_dim, at in self.channels.items() if layer_dim.side in ("in", "out")
        )
