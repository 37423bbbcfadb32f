"""Networks inside a larger one of the same function: first rows and columns, and first layers.

A tensor of the small network is the beginning of the large one's of the same name along every axis;
layers that the small one does not have are left out. So the large one holds networks of all smaller
widths and depths (slimmable networks: Yu et al., ICLR 2019, arXiv:1812.08928).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kdeploy.errors import ModelError

# One tensor holds the matrices of several gates or projections: a cut would go through all of them.
SEVERAL_IN_ONE = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
HINT = "sizes are made by the arguments of one function, e.g. `width` and `depth`"


def check_nested(small: nn.Module, large: nn.Module, *, name: str) -> None:
    """Refuse a network that is not inside the large one.

    Args:
        small: The network.
        large: The one that it is to be a part of.
        name: Of the small one, for people.

    Raises:
        ModelError: with the first tensor that does not fit.
    """
    theirs = large.state_dict()
    for key, tensor in small.state_dict().items():
        found = theirs.get(key)
        if found is None:
            raise ModelError(
                f"{name} is not inside the student: it has `{key}`, which the student has not",
                hint=HINT,
            )
        fits = found.ndim == tensor.ndim and found.dtype == tensor.dtype
        if not fits or any(a > b for a, b in zip(tensor.shape, found.shape, strict=True)):
            raise ModelError(
                f"{name} is not inside the student: its `{key}` is {tuple(tensor.shape)}, the "
                f"student's is {tuple(found.shape)}",
                hint=f"the student is the largest; {HINT}",
            )
    inner = dict(large.named_modules())
    for path, module in small.named_modules():
        if not isinstance(module, SEVERAL_IN_ONE):
            continue
        shapes = [[t.shape for t in m.state_dict().values()] for m in (module, inner[path])]
        if shapes[0] != shapes[1]:
            raise ModelError(
                f"{name} has another size of `{path}` than the student, and a "
                f"{type(module).__name__} holds several matrices in one tensor, of which no "
                "beginning is one of the small network",
                hint="keep that size in all of them, and change others",
            )


def beginnings(small: nn.Module, large: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return for each tensor of a nested network the part of the large one's, as a view."""
    return {
        key: large[key][tuple(slice(size) for size in tensor.shape)]
        for key, tensor in small.state_dict().items()
    }


@torch.no_grad()
def cut_out(small: nn.Module, large: nn.Module) -> None:
    """Give a nested network the weights that it has inside the large one.

    Statistics of batch norm come along and are wrong: see `training.remeasured_norms`.
    """
    small.load_state_dict(beginnings(small, large.state_dict()))
