"""Where boxes lie on feature maps: which cells of a map belong to which object of an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdeploy.errors import ModelError

FILLER = -1
"""The class of rows that only fill up an image's list of boxes."""


def check_boxes(labels: Tensor, inputs: Tensor, *, loss: str) -> None:
    """Raise ModelError unless labels are boxes (batch, objects, 5) of images."""
    if labels.ndim != 3 or labels.shape[-1] != 5 or inputs.ndim != 4:
        raise ModelError(
            f"`{loss}` needs boxes (batch, objects, 5) of images, found labels "
            f"{tuple(labels.shape)} of inputs {tuple(inputs.shape)}",
            hint="it is for `task: detection`; `pkd` and `cwd` need no boxes",
        )


def covered_cells(boxes: Tensor, image: Sequence[int], size: Sequence[int]) -> Tensor:
    """Return which cells each box touches, bool (batch, objects, height, width).

    Args:
        boxes: (batch, objects, 5): x1, y1, x2, y2 in pixels of the input, and the class, -1 for a
            row that is no object.
        image: Height and width of the input.
        size: Height and width of the map.
    """
    rows, columns = (
        _covered(boxes[..., low], boxes[..., low + 2], pixels=image[axis], cells=size[axis])
        for axis, low in ((0, 1), (1, 0))
    )
    real = (boxes[..., 4] > FILLER)[..., None, None]
    return rows[..., :, None] & columns[..., None, :] & real


def _covered(low: Tensor, high: Tensor, *, pixels: int, cells: int) -> Tensor:
    """Return which cells of an axis (batch, objects, cells) an interval in pixels touches."""
    scale = cells / pixels
    places = torch.arange(cells, device=low.device)
    first = (low * scale).floor().clamp(0, cells - 1)[..., None]
    # An edge that lies on a cell's border does not touch the next cell.
    last = ((high * scale).ceil() - 1).clamp(0, cells - 1)[..., None]
    # A box thinner than a cell, or of no width, still touches the one that it lies in.
    return (places >= first) & (places <= torch.maximum(first, last))
