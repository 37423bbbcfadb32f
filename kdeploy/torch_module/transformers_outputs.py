"""Models of the library transformers as modules with one answer: logits, or a vector an item."""

from __future__ import annotations

from torch import Tensor, nn

POOLINGS = ("mean", "first", "last")
PREFIX = "model."
"""Stands before the names of the tensors in the library's own module."""


class Logits(nn.Module):
    """Give the logits alone: a transformers model returns a record of several tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, ...)."""
        return self.model(x).logits  # type: ignore[no-any-return]


class TextLogits(nn.Module):
    """The same of token ids, with or without a mask of the real tokens."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        # Keys and values of earlier tokens, which nobody asks for here.
        self._further = {"use_cache": False} if hasattr(model.config, "use_cache") else {}

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return logits (batch, tokens, vocabulary), or (batch, classes) of texts.

        Args:
            input_ids: (batch, tokens), int64.
            attention_mask: 1 for real tokens, 0 for padding, (batch, tokens); None: all are real.
        """
        answer = self.model(input_ids, attention_mask=attention_mask, **self._further)
        return answer.logits  # type: ignore[no-any-return]


class TextEmbedding(nn.Module):
    """A vector for each text: what the last layer says of its tokens, brought to one."""

    def __init__(self, model: nn.Module, pooling: str) -> None:
        super().__init__()
        self.model, self.pooling = model, pooling

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return vectors (batch, width): the mean of the real tokens, the first or the last one."""
        states = self.model(input_ids, attention_mask=attention_mask).last_hidden_state
        if self.pooling == "first":
            return states[:, 0]  # type: ignore[no-any-return]
        if attention_mask is None:
            return states[:, -1] if self.pooling == "last" else states.mean(1)  # type: ignore[no-any-return]
        real = attention_mask.to(states.dtype)
        if self.pooling == "last":
            position = attention_mask.sum(1, keepdim=True).clamp(min=1) - 1
            index = position[:, :, None].expand(-1, -1, states.shape[-1])
            return states.gather(1, index)[:, 0]  # type: ignore[no-any-return]
        total = (states * real[:, :, None]).sum(1)
        return total / real.sum(1, keepdim=True).clamp(min=1)  # type: ignore[no-any-return]


def library_module(model: nn.Module) -> nn.Module | None:
    """Return the library's own module in one of these, with `config` and `generate`; else None."""
    return model.model if isinstance(model, Logits | TextLogits | TextEmbedding) else None
