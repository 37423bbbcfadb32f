"""Zeros in weights: where they are, how much they save, and that they stay."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from kdeploy.errors import ModelError
from kdeploy.sparsity.layers import layers_with_weights, weight_of

# Training leaves hardly a weight at exactly zero: a layer with more zeros was made sparse.
LEAST = 0.001
ZLIB_LEVEL = 6


class HeldZeros:
    """A constraint on a training: weights that are zero when it begins are zero after each step."""

    is_elementwise = True

    def __init__(self, names: Iterable[str]) -> None:
        """Hold the zeros of the parameters with these names, as `named_parameters` has them."""
        self.names = tuple(names)
        self.fingerprint = f"held zeros: {', '.join(self.names)}"
        self._held: list[tuple[nn.Parameter, Tensor]] = []

    def begin(self, model: nn.Module) -> None:
        """Remember where the weights are zero, on their device."""
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for name in self.names:
            if name not in parameters:
                raise ModelError(
                    f"zeros of `{name}` are to be held, and the model has no such parameter",
                    hint="put the sparsity after the steps that change layers",
                )
        found = [parameters[name] for name in self.names]
        self._held = [(weight, weight.detach() == 0) for weight in found]

    @torch.no_grad()
    def after_step(self, progress: float, learning_rate: float) -> None:
        """Set to zero again what the optimizer moved."""
        for weight, zeros in self._held:
            weight.masked_fill_(zeros, 0)


def zeros_of(weight: Tensor) -> float:
    """Return the fraction of a weight that is exactly zero."""
    return 1 - int(torch.count_nonzero(weight)) / max(weight.numel(), 1)


def sparse_weights(model: nn.Module, least: float = LEAST) -> tuple[str, ...]:
    """Return the names of the linear and convolution weights of which at least `least` is zero."""
    return tuple(
        f"{name}.weight" if name else "weight"
        for name, layer in layers_with_weights(model).items()
        if zeros_of(weight_of(layer)) >= least
    )


def sparsity(model: nn.Module) -> float:
    """Return the fraction of zeros in the weights of all linear and convolution layers."""
    weights = [weight_of(layer) for layer in layers_with_weights(model).values()]
    total = sum(weight.numel() for weight in weights)
    return 1 - sum(int(torch.count_nonzero(w)) for w in weights) / total if total else 0.0


def compressed_bytes(model: nn.Module) -> int:
    """Return the size of all tensors of a model behind a general compressor: zlib at level 6.

    That is what a download or a firmware image costs; in memory the zeros take their place.
    """
    compressor = zlib.compressobj(ZLIB_LEVEL)
    size = 0
    for tensor in model.state_dict().values():
        if isinstance(tensor, Tensor):
            # As bytes: numpy has no bfloat16.
            plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            size += len(compressor.compress(plain.numpy().data))
    return size + len(compressor.flush())
