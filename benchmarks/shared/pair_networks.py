"""Small networks of each kind, as teachers and students of the panel of distillation pairs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

PADDING = 0


def convolutional(
    *,
    width: int = 32,
    depth: int = 2,
    separable: bool = False,
    num_classes: int = 10,
    in_channels: int = 1,
) -> nn.Sequential:
    """Return three stages of `depth` convolutions at half the resolution each: images -> logits."""
    layers: list[nn.Module] = [_convolution(in_channels, width, stride=2)]
    inputs = width
    for stage, outputs in enumerate((width, 2 * width, 4 * width)):
        for place in range(depth):
            stride = 2 if stage and not place else 1
            layers.append(_convolution(inputs, outputs, stride=stride, separable=separable))
            inputs = outputs
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, num_classes)]
    return nn.Sequential(*layers, *head)


def segmenting(*, width: int = 16, num_classes: int = 5, in_channels: int = 3) -> nn.Module:
    """Return an encoder of three resolutions and a decoder with shortcuts: images -> maps."""
    return Segmenter(in_channels, width, num_classes)


def columns_network(
    *, columns: int = 10, width: int = 64, layers: int = 2, num_outputs: int = 1
) -> nn.Sequential:
    """Return linear layers over the columns of a table: (N, columns, 1) -> (N, outputs)."""
    inner: list[nn.Module] = []
    for index in range(layers):
        inner += [nn.Linear(width if index else columns, width), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *inner, nn.Linear(width, num_outputs))


def row_lstm(*, row: int = 28, hidden: int = 64, num_classes: int = 10) -> nn.Module:
    """Return an LSTM that reads an image row by row."""
    return RowReader(nn.LSTM(row, hidden, batch_first=True), num_classes)


def row_gru(*, row: int = 28, hidden: int = 64, num_classes: int = 10) -> nn.Module:
    """Return a gated recurrent unit that reads an image row by row."""
    return RowReader(nn.GRU(row, hidden, batch_first=True), num_classes)


def row_transformer(
    *, row: int = 28, rows: int = 28, width: int = 32, layers: int = 2, num_classes: int = 10
) -> nn.Module:
    """Return a transformer (norm first) over the rows of an image."""
    return RowTransformer(row, rows, width, layers, num_classes)


def series_convolutional(
    *, width: int = 64, num_classes: int = 9, in_channels: int = 12
) -> nn.Sequential:
    """Return three convolutions over time and the mean: (N, channels, length) -> logits."""
    widths = [in_channels, width, 2 * width, width]
    layers: list[nn.Module] = []
    for index, kernel in enumerate((7, 5, 3)):
        inputs, outputs = widths[index], widths[index + 1]
        convolution = nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        layers += [convolution, nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, num_classes)
    )


def series_gru(*, hidden: int = 16, num_classes: int = 9, in_channels: int = 12) -> nn.Module:
    """Return a gated recurrent unit over time: (N, channels, length) -> logits."""
    return SeriesReader(nn.GRU(in_channels, hidden, batch_first=True), num_classes)


def text_transformer(
    *, width: int = 64, layers: int = 2, vocabulary: int = 8000, num_classes: int = 8
) -> nn.Module:
    """Return a transformer over token ids, 0 for padding."""
    return TextTransformer(vocabulary, width, layers, num_classes)


def text_lstm(
    *, width: int = 32, hidden: int = 32, vocabulary: int = 8000, num_classes: int = 8
) -> nn.Module:
    """Return an LSTM over token ids, 0 for padding, and the mean of what it says."""
    return TextReader(vocabulary, width, hidden, num_classes)


class RowReader(nn.Module):
    """A recurrent layer over the rows of an image; the classes from its last output."""

    def __init__(self, recurrent: nn.RNNBase, num_classes: int) -> None:
        super().__init__()
        self.recurrent = recurrent
        self.head = nn.Linear(recurrent.hidden_size, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        outputs, _ = self.recurrent(x.transpose(1, 2).flatten(2))  # (N, rows, channels * row)
        return self.head(outputs[:, -1])


class Segmenter(nn.Module):
    """Three resolutions down, two up again; a class for every position of the image."""

    def __init__(self, in_channels: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            [
                _convolution(in_channels, width, stride=2),
                _convolution(width, 2 * width, stride=2),
                _convolution(2 * width, 4 * width, stride=2),
            ]
        )
        self.up = nn.ModuleList(
            [
                _convolution(6 * width, 2 * width, stride=1),
                _convolution(3 * width, width, stride=1),
            ]
        )
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down[0](x)
        middle = self.down[1](fine)
        coarse = self.down[2](middle)
        middle = self.up[0](torch.cat([_twice(coarse), middle], dim=1))
        fine = self.up[1](torch.cat([_twice(middle), fine], dim=1))
        return _twice(self.head(fine))


class SeriesReader(nn.Module):
    """A recurrent layer over time; the classes from its last output."""

    def __init__(self, recurrent: nn.RNNBase, num_classes: int) -> None:
        super().__init__()
        self.recurrent = recurrent
        self.head = nn.Linear(recurrent.hidden_size, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        outputs, _ = self.recurrent(x.transpose(1, 2))
        return self.head(outputs[:, -1])


class RowTransformer(nn.Module):
    """Rows with learned positions through transformer layers; the classes from their mean."""

    def __init__(self, row: int, rows: int, width: int, layers: int, num_classes: int) -> None:
        super().__init__()
        self.embed = nn.Linear(row, width)
        self.positions = nn.Parameter(torch.randn(rows, width) * 0.02)
        self.layers = nn.ModuleList(Layer(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.transpose(1, 2).flatten(2)) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(1))


class TextTransformer(nn.Module):
    """Embeddings with learned positions through transformer layers; the mean over words."""

    def __init__(self, vocabulary: int, width: int, layers: int, num_classes: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width, padding_idx=PADDING)
        self.positions = nn.Parameter(torch.randn(128, width) * 0.02)
        self.layers = nn.ModuleList(Layer(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, ids: Tensor) -> Tensor:
        is_word = ids != PADDING
        x = self.words(ids) + self.positions[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x, is_word[:, None, None, :])
        return self.head(_mean(self.norm(x), is_word))


class TextReader(nn.Module):
    """Embeddings through an LSTM; the mean over words."""

    def __init__(self, vocabulary: int, width: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width, padding_idx=PADDING)
        self.recurrent = nn.LSTM(width, hidden, batch_first=True)
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, ids: Tensor) -> Tensor:
        outputs, _ = self.recurrent(self.words(ids))
        return self.head(_mean(outputs, ids != PADDING))


class Layer(nn.Module):
    """Self-attention and a two-layer network, each after a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).chunk(3, dim=-1)
        )
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.output(mixed.transpose(1, 2).flatten(2))
        return x + self.narrow(nn.functional.gelu(self.widen(self.norm2(x))))


def _mean(x: Tensor, is_word: Tensor) -> Tensor:
    weights = is_word[:, :, None].to(x.dtype)
    return (x * weights).sum(1) / weights.sum(1).clamp(min=1)


def _twice(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def _convolution(
    inputs: int, outputs: int, *, stride: int, separable: bool = False
) -> nn.Sequential:
    if not separable:
        kernel = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        return nn.Sequential(kernel, nn.BatchNorm2d(outputs), nn.ReLU())
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
