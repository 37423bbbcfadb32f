"""Ways to write multi-head attention; each is a whole model on 16 tokens of 12 numbers."""

import torch
from torch import nn
from torch.nn import functional as F

HEADS, WIDTH, STREAM = 3, 8, 12


class Model(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.attention = attention
        self.head = nn.Linear(STREAM, 5)

    def forward(self, x):
        return self.head((x + self.attention(x)).mean(1))


class Fused(nn.Module):
    """As in timm: one layer for queries, keys and values; the products are written out."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim = HEADS, WIDTH, HEADS * WIDTH
        self.scale = WIDTH**-0.5
        self.qkv, self.proj = nn.Linear(STREAM, 3 * self.attn_dim), nn.Linear(self.attn_dim, STREAM)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        batch, tokens, _ = x.shape
        shape = (batch, tokens, 3, self.num_heads, self.head_dim)
        q, k, v = self.qkv(x).reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)
        weights = self.drop((q * self.scale @ k.transpose(-2, -1)).softmax(-1))
        return self.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, self.attn_dim))


class Default(nn.Module):
    """PyTorch's fused function with the scale that it takes by itself; heads stand innermost."""

    def __init__(self):
        super().__init__()
        self.heads = HEADS
        self.to_qkv = nn.Linear(STREAM, 3 * HEADS * WIDTH)
        self.to_out = nn.Linear(HEADS * WIDTH, STREAM)

    def forward(self, x):
        parts = [
            part.unflatten(-1, (-1, self.heads)).permute(0, 3, 1, 2)
            for part in self.to_qkv(x).chunk(3, -1)
        ]
        seen = F.scaled_dot_product_attention(*parts)
        return self.to_out(seen.permute(0, 2, 3, 1).flatten(2))


class Apart(nn.Module):
    """Three layers, a bias a head, the width read from the tensor."""

    def __init__(self):
        super().__init__()
        self.attention_head_size, self.all_head_size = WIDTH, HEADS * WIDTH
        self.query, self.key, self.value = (nn.Linear(STREAM, HEADS * WIDTH) for _ in range(3))
        self.bias = nn.Parameter(torch.randn(HEADS, 1, 1))
        self.output = nn.Linear(HEADS * WIDTH, STREAM)

    def forward(self, x):
        q, k, v = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
        scores = torch.matmul(q, k.transpose(-1, -2)) / q.shape[-1] ** 0.5 + self.bias
        seen = torch.matmul(F.softmax(scores, dim=-1), v).transpose(1, 2).contiguous()
        return self.output(seen.view(*seen.shape[:2], self.all_head_size))

    def _split(self, x):
        return x.view(*x.shape[:2], -1, self.attention_head_size).transpose(1, 2)


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.MultiheadAttention(STREAM, HEADS, batch_first=True)

    def forward(self, x):
        return self.inner(x, x, x)[0]


class Fixed(Fused):
    """Its code states the sizes."""

    def forward(self, x):
        q, k, v = self.qkv(x).view(len(x), -1, 3, HEADS, WIDTH).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Normed(Fused):
    """Queries pass a norm."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x):
        shape = (len(x), -1, 3, self.num_heads, self.head_dim)
        q, k, v = self.qkv(x).view(shape).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(self.norm(q), k, v)
        return self.proj(seen.transpose(1, 2).flatten(2))


def make(kind):
    torch.manual_seed(0)
    model = Model(kind()).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(2)  # so that heads look at different tokens
    return model


def example():
    torch.manual_seed(1)
    return torch.randn(2, 16, STREAM)
