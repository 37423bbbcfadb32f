"""A causal language model: token ids (batch, tokens) to logits (batch, tokens, vocabulary).

After GPT-2 (Radford et al., 2019): learned positions, norms before the layers, and the word
embeddings are also the last layer (Press and Wolf, EACL 2017, arXiv:1608.05859).
Width 128 and 4 layers: 814K parameters; width 64 and 2 layers: 110K.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


def gpt(
    *,
    width: int = 128,
    layers: int = 4,
    heads: int = 4,
    tokens: int = 64,
    vocabulary: int = 96,
    dropout: float = 0.0,
) -> Gpt:
    """Return the model; `tokens` is the longest text that it takes."""
    return Gpt(width, layers, heads, tokens, vocabulary, dropout)


class Gpt(nn.Module):
    """Embeddings, blocks, a last norm, and the embeddings again."""

    def __init__(
        self, width: int, layers: int, heads: int, tokens: int, vocabulary: int, dropout: float
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(tokens, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.words.weight
        for table in (self.words, self.positions):
            nn.init.normal_(table.weight, std=0.02)
        for block in self.blocks:  # shortcuts add up: what flows into them starts smaller
            for layer in (block.output, block.narrow):
                nn.init.normal_(layer.weight, std=0.02 / (2 * layers) ** 0.5)

    def forward(self, ids: Tensor) -> Tensor:
        """Return for every token the logits of the one after it."""
        x = self.dropout(self.words(ids) + self.positions.weight[: ids.shape[1]])
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Block(nn.Module):
    """Attention to what came before, then a two-layer network, each beside a shortcut."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self._attention(self.norm1(x)))
        inner = functional.gelu(self.widen(self.norm2(x)))
        return x + self.dropout(self.narrow(inner))

    def _attention(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (batch, heads, tokens, ...)
            for layer in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.output(mixed.transpose(1, 2).flatten(2))
