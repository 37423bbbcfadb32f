"""Decoders with a cache: which models are, and whether it changes what their file computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdeploy.errors import ModelError, ParityFailed
from kdeploy.runtimes.generation import Generates, step_by_step
from kdeploy.runtimes.run import open_runtime
from kdeploy.torch_module.block_quantized import block_quantized, with_rounded_inputs
from kdeploy.torch_module.decoders import decoder_in

FLOAT_BOUND = 1e-3
"""How far a text fed token by token may be from the same at once, in standard deviations."""
ROUNDING_BOUND = 2.0
"""The same where inputs are rounded, in distances between the model and itself with such inputs:
sums in another order put some inputs on the other side of a rounding."""
CACHE_TOKENS = 16


def required_decoder(model: nn.Module, *, target: str, other: str) -> Any:
    """Return the library's own module of a causal language model.

    Args:
        model: What is exported.
        target: The exporter, for the message.
        other: An exporter that writes any model.

    Raises:
        ModelError: it is no such model.
    """
    module = decoder_in(model)
    if module is None:
        raise ModelError(
            f"`{target}` takes a causal language model of transformers, and this is a "
            f"`{type(model).__name__}`",
            hint=f"name it as `transformers:DIR` or `gguf:FILE`; `{other}` writes any other model",
        )
    return module


def cache_bound(model: nn.Module, ids: Tensor) -> float:
    """Return what a cache may do to the scores of a text, in standard deviations.

    Args:
        model: Float, or with layers on codes, whose inputs a kernel may round.
        ids: A text (1, tokens).
    """
    if not block_quantized(model):
        return FLOAT_BOUND
    text = ids[:, :CACHE_TOKENS]
    with torch.no_grad():
        exact, rounded = model(text), with_rounded_inputs(model)(text)
    return ROUNDING_BOUND * float((rounded - exact).abs().max() / exact.std())


def check_cache(runtime: str, path: Path, ids: Tensor, *, bound: float) -> None:
    """Raise ParityFailed unless a text fed token by token has the scores of the same at once.

    Args:
        runtime: What opens the file.
        path: The file.
        ids: A text (tokens,).
        bound: In standard deviations of the scores.
    """
    opened = open_runtime(runtime, path, threads=1)
    try:
        assert isinstance(opened, Generates), "a runtime without a cache"
        text = ids[:CACHE_TOKENS].numpy()
        whole = next(iter(opened.infer(text[None]).values()))[0]
        single = step_by_step(lambda: opened.stream(len(text) + 1), text)
    finally:
        opened.close()
    error = float(abs(single - whole).max() / whole.std())
    if not error <= bound:
        raise ParityFailed(
            f"{path.parent.name}: a text fed token by token is {error:.3g} output standard "
            f"deviations from the same text at once (allowed {bound:.3g}); no file was kept",
            hint="report it with the model: its cache does not do what it should",
        )
