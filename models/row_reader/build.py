"""A recurrent network that reads a picture as a text: row after row, from the top.

Its convolutional teacher sees the whole picture at once: knowledge goes from space to time. What
it has in common with its teacher is the classes, so only losses on logits fit.
"""

from __future__ import annotations

from torch import Tensor, nn


class RowReader(nn.Module):
    """Take each row of pixels as one step of a gated recurrent unit (arXiv:1406.1078)."""

    def __init__(self, row_size: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.recurrent = nn.GRU(row_size, hidden, batch_first=True)
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.transpose(1, 2).flatten(2)  # (N, height, channels * width)
        outputs, _ = self.recurrent(rows)
        return self.head(outputs[:, -1])


def row_gru(
    *, hidden: int = 64, width: int = 28, num_classes: int = 10, in_channels: int = 1
) -> RowReader:
    """Return the network: (N, in_channels, height, width) -> logits, of any height.

    Hidden 64 and width 28: 18 698 parameters.
    """
    return RowReader(in_channels * width, hidden, num_classes)
