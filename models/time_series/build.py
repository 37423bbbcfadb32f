"""A convolutional teacher and recurrent students for series, (N, channels, length) -> logits.

`fcn` follows the fully convolutional network of Wang, Yan and Oates, IJCNN 2017, arXiv:1611.06455:
three convolutions with batch norm, the mean over time, a linear layer. Its kernels are 7, 5 and 3
(the paper's 8 has no centre). `gru` and `lstm` read the series once, from its beginning; the linear
layer sees what they hold at its end.
"""

from __future__ import annotations

from torch import Tensor, nn


def fcn(*, width: int = 128, num_classes: int = 9, in_channels: int = 12) -> nn.Sequential:
    """Return the convolutional network; its layers are `width`, 2 x `width` and `width` wide."""
    widths = [in_channels, width, 2 * width, width]
    layers = [_convolution(widths[i], widths[i + 1], kernel) for i, kernel in enumerate((7, 5, 3))]
    head = [nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, num_classes)]
    return nn.Sequential(*layers, *head)


def gru(*, hidden: int = 16, num_classes: int = 9, in_channels: int = 12) -> nn.Module:
    """Return a gated recurrent unit (Cho et al., arXiv:1406.1078) with a linear layer."""
    return Recurrent(nn.GRU(in_channels, hidden, batch_first=True), num_classes)


def lstm(*, hidden: int = 16, num_classes: int = 9, in_channels: int = 12) -> nn.Module:
    """Return a long short-term memory (Hochreiter and Schmidhuber, 1997) with a linear layer."""
    return Recurrent(nn.LSTM(in_channels, hidden, batch_first=True), num_classes)


class Recurrent(nn.Module):
    """A recurrent layer over time, then the classes from its last output."""

    def __init__(self, recurrent: nn.RNNBase, num_classes: int) -> None:
        super().__init__()
        self.recurrent = recurrent
        self.head = nn.Linear(recurrent.hidden_size, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        outputs, _ = self.recurrent(x.transpose(1, 2))  # (N, length, hidden)
        return self.head(outputs[:, -1])


def _convolution(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    # Without bias: the batch norm has one.
    convolution = nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm1d(outputs), nn.ReLU())
