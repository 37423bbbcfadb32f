"""Random changes of images by kornia (arXiv:1910.02190); each takes the shape of an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from kdeploy.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

Augment: TypeAlias = "Callable[[Tensor], Tensor]"
ROTATION_DEGREES = 15.0
ERASED_AREA = (0.02, 0.33)
ERASED_ASPECT = (0.3, 3.3)
JITTER = 0.4
"""Brightness, contrast and saturation are multiplied by 1 - JITTER to 1 + JITTER."""
NUM_OPERATIONS = 2
MAGNITUDE = 9
"""Of RandAugment, on a scale of 30."""
SMALL_IMAGE = 64
"""Up to this many pixels AutoAugment's policy is the one found on CIFAR-10, not on ImageNet."""
GROUP = 32
"""Images that share one draw of operations; each draws strength and sign for itself."""


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
        # The plain mean, not luma: which channel is red nobody says.
        grey = x.mean(dim=1, keepdim=True)
        return grey + (x - grey) * factors[2] if shape[0] == 3 else x

    return jitter


def _auto_augment(shape: Sequence[int]) -> Augment:
    """Cubuk et al., CVPR 2019, arXiv:1805.09501: one of 25 pairs of operations found by search."""
    from kornia.augmentation.auto import AutoAugment
    from kornia.augmentation.auto.autoaugment.autoaugment import cifar10_policy, imagenet_policy

    policy = cifar10_policy if max(shape[1:]) <= SMALL_IMAGE else imagenet_policy
    return _in_groups(AutoAugment(_for_channels(policy, shape, "auto_augment")))


def _rand_augment(shape: Sequence[int]) -> Augment:
    """Cubuk et al., NeurIPS 2020, arXiv:1909.13719: two operations of one strength."""
    from kornia.augmentation.auto import RandAugment
    from kornia.augmentation.auto.rand_augment.rand_augment import default_policy

    policy = _for_channels(default_policy, shape, "rand_augment")
    return _in_groups(RandAugment(NUM_OPERATIONS, MAGNITUDE, policy=policy))


def _for_channels(
    policy: Sequence[Sequence[tuple[object, ...]]], shape: Sequence[int], name: str
) -> list[list[tuple[object, ...]]]:
    """Return the policy; for grey images without `color`, which kornia has for three channels."""
    if shape[0] not in (1, 3):
        raise DataError(
            f"data.augment: `{name}` is for grey or RGB images, the items have {shape[0]} channels",
            hint="use random_crop, horizontal_flip, rotation, random_erasing or color_jitter",
        )
    pairs = [[o for o in pair if shape[0] == 3 or o[0] != "color"] for pair in policy]
    return [pair for pair in pairs if pair]


def _in_groups(operation: Augment) -> Augment:
    """Apply to groups of images: kornia draws the operations once a call.

    It also wants values in 0..1: the darkest and the brightest value of the batch are these.
    """
    import torch

    def augment(x: Tensor) -> Tensor:
        low, high = x.amin(), x.amax()
        span = (high - low).clamp(min=torch.finfo(x.dtype).tiny)
        groups = torch.split((x - low) / span, GROUP)
        with torch.no_grad():  # kornia's strengths are parameters
            changed = torch.cat([operation(group) for group in groups])
        return changed * span + low

    return augment


IMAGE_AUGMENTATIONS: Mapping[str, Callable[[Sequence[int]], Augment]] = {
    "auto_augment": _auto_augment,
    "color_jitter": _color_jitter,
    "horizontal_flip": _horizontal_flip,
    "rand_augment": _rand_augment,
    "random_crop": _random_crop,
    "random_erasing": _random_erasing,
    "rotation": _rotation,
}
