"""Random changes of training images, a whole batch at once, by kornia (arXiv:1910.02190).

They act on stored values as floats, before scale, mean and std, and draw from torch's global
random numbers only: the same seed gives the same batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from kdeploy.errors import DataError, UnknownName

if TYPE_CHECKING:
    from torch import Tensor

Augment: TypeAlias = "Callable[[Tensor], Tensor]"
ROTATION_DEGREES = 15.0
ERASED_AREA = (0.02, 0.33)
ERASED_ASPECT = (0.3, 3.3)
JITTER = 0.4
"""Brightness, contrast and saturation are multiplied by 1 - JITTER to 1 + JITTER."""


def check_augmentations(names: Sequence[str], shape: Sequence[int]) -> None:
    """Check that the augmentations exist and fit items of `shape`; needs no torch.

    Raises:
        UnknownName: there is none of that name; the hint names the nearest.
        DataError: an image augmentation is asked for a signal.
    """
    for name in names:
        if name not in AUGMENTATIONS:
            raise UnknownName.among("augmentation", name, AUGMENTATIONS, where="data.augment")
    if names and len(shape) != 3:
        raise DataError(
            f"data.augment: `{names[0]}` is for images (channels, height, width), the items have "
            f"the shape {tuple(shape)}",
            hint="leave `augment` out for signals, or augment them in a `path.py:function`",
        )


def augmenter(names: Sequence[str], shape: Sequence[int]) -> Augment | None:
    """Return the function that augments a float batch (N, *shape), None when there is nothing.

    Args:
        names: What to do, in order.
        shape: Of one item.
    """
    check_augmentations(names, shape)
    if not names:
        return None
    operations = [AUGMENTATIONS[name](shape) for name in names]

    def augment(x: Tensor) -> Tensor:
        for operation in operations:
            x = operation(x)
        return x

    return augment


def _random_crop(shape: Sequence[int]) -> Augment:
    """Shift by up to two pixels of 32 and proportionally more of larger images; black comes in."""
    from kornia.augmentation import RandomCrop

    size = (shape[1], shape[2])
    operation: Augment = RandomCrop(size, padding=max(2, min(size) // 16))
    return operation


def _horizontal_flip(shape: Sequence[int]) -> Augment:
    from kornia.augmentation import RandomHorizontalFlip

    operation: Augment = RandomHorizontalFlip(p=0.5)
    return operation


def _rotation(shape: Sequence[int]) -> Augment:
    from kornia.augmentation import RandomRotation

    operation: Augment = RandomRotation(ROTATION_DEGREES, p=1.0)
    return operation


def _random_erasing(shape: Sequence[int]) -> Augment:
    """Zhong et al., arXiv:1708.04896: half of the images lose a rectangle."""
    from kornia.augmentation import RandomErasing

    operation: Augment = RandomErasing(scale=ERASED_AREA, ratio=ERASED_ASPECT, p=0.5)
    return operation


def _color_jitter(shape: Sequence[int]) -> Augment:
    """Change brightness, contrast and, of three channels, saturation.

    Kornia's own wants three channels of values in 0..1; this one takes any number and range.
    """
    import torch

    def jitter(x: Tensor) -> Tensor:
        factors = torch.empty(3, len(x), 1, 1, 1).uniform_(1 - JITTER, 1 + JITTER).to(x)
        x = x * factors[0]
        average = x.mean(dim=(1, 2, 3), keepdim=True)
        x = average + (x - average) * factors[1]
        grey = x.mean(dim=1, keepdim=True)
        return grey + (x - grey) * factors[2] if shape[0] == 3 else x

    return jitter


AUGMENTATIONS: Mapping[str, Callable[[Sequence[int]], Augment]] = {
    "color_jitter": _color_jitter,
    "horizontal_flip": _horizontal_flip,
    "random_crop": _random_crop,
    "random_erasing": _random_erasing,
    "rotation": _rotation,
}
"""By name: item shape -> the function on a float batch (N, *shape)."""
MIXES: tuple[str, ...] = ()
"""Those that mix items and their labels."""
