"""Random changes of training items, a whole batch at once, by name.

They act on stored values as floats, before scale, mean and std, and draw from torch's global
random numbers only: the same seed gives the same batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from kdeploy.data.image_augmentation import IMAGE_AUGMENTATIONS
from kdeploy.data.mixing import FOR_IMAGES, MIXES
from kdeploy.data.signal_augmentation import SIGNAL_AUGMENTATIONS
from kdeploy.errors import DataError, UnknownName

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["AUGMENTATIONS", "MIXES", "augmenter", "check_augmentations"]
Augment: TypeAlias = "Callable[[Tensor], Tensor]"
AUGMENTATIONS: Mapping[str, Callable[[Sequence[int]], Augment]] = {
    **IMAGE_AUGMENTATIONS,
    **SIGNAL_AUGMENTATIONS,
}
"""By name: item shape -> the function on a float batch (N, *shape)."""
KINDS = {
    2: ("signals (channels, length)", {*SIGNAL_AUGMENTATIONS, *MIXES} - FOR_IMAGES),
    3: ("images (channels, height, width)", {*IMAGE_AUGMENTATIONS, *MIXES}),
    4: ("clips (channels, frames, height, width)", {*MIXES} - FOR_IMAGES),
}
"""By the number of dimensions of an item: what it is, and what is for it."""


def check_augmentations(names: Sequence[str], shape: Sequence[int]) -> None:
    """Check that augmentations and mixes exist, fit items of `shape`, and are in an order.

    It needs no torch.

    Raises:
        UnknownName: there is none of that name; the hint names the nearest.
        DataError: one for images is asked for a signal or the reverse, or one comes after a mix.
    """
    for name in names:
        if name not in AUGMENTATIONS and name not in MIXES:
            valid = {*AUGMENTATIONS, *MIXES}
            raise UnknownName.among("augmentation", name, valid, where="data.augment")
        _check_kind(name, shape)
    for mix, after in pairwise(names):
        if mix in MIXES and after not in MIXES:
            raise DataError(
                f"data.augment: `{after}` comes after `{mix}`, which mixes items and their labels",
                hint=f"put `{mix}` last",
            )


def augmenter(names: Sequence[str], shape: Sequence[int]) -> Augment | None:
    """Return the function that augments a float batch (N, *shape), None when there is nothing.

    Args:
        names: What to do, in order; mixes are left to `mixing.mixer`.
        shape: Of one item.
    """
    check_augmentations(names, shape)
    operations = [AUGMENTATIONS[name](shape) for name in names if name not in MIXES]
    if not operations:
        return None

    def augment(x: Tensor) -> Tensor:
        for operation in operations:
            x = operation(x)
        return x

    return augment


def _check_kind(name: str, shape: Sequence[int]) -> None:
    _, own = KINDS.get(len(shape), ("", set()))
    if name in own:
        return
    wanted = next(kind for kind, members in KINDS.values() if name in members)
    fitting = f"for such items: {', '.join(sorted(own))}; or " if own else ""
    raise DataError(
        f"data.augment: `{name}` is for {wanted}, the items have the shape {tuple(shape)}",
        hint=f"leave it out; {fitting}augment in a `path.py:function`",
    )
