"""Decoders of the library transformers inside of modules that give their logits alone."""

from __future__ import annotations

from typing import Any

from torch import nn


def decoder_in(model: nn.Module) -> Any | None:
    """Return the library's own module, which writes text token by token; None where there is none.

    It is known by what it has, so that the library need not be there.
    """
    for module in model.modules():
        can_generate = getattr(type(module), "can_generate", None)
        if can_generate is not None and hasattr(module, "config") and can_generate():
            return module
    return None
