"""Mix the items of a batch in pairs, and their labels with them.

A mix needs a loss on probabilities. It draws from torch's global random numbers only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

Mixer: TypeAlias = "Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]"
Paired: TypeAlias = "tuple[Tensor, Tensor, Tensor]"
MIXUP_ALPHA = 0.2
"""Both parameters of the beta distribution of shares, as the paper has them for ImageNet."""
CUTMIX_ALPHA = 1.0
"""The same for cutmix: areas of all sizes are equally likely."""
FOR_IMAGES = frozenset({"cutmix"})


def mixer(names: Sequence[str], num_classes: int) -> Mixer | None:
    """Return the function that mixes a batch, None where `names` has no mix.

    It takes items (N, ...) and labels (N,), -1 for none, and gives items and probabilities
    (N, num_classes).

    Args:
        names: Of `data.augment`; of several mixes each batch draws one. Others are passed over.
        num_classes: Columns of the probabilities.
    """
    operations = [MIXES[name] for name in names if name in MIXES]
    if not operations:
        return None
    import torch
    from torch.nn.functional import one_hot

    def mix(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        operation = operations[int(torch.randint(len(operations), ()))]
        mixed, partner, share = operation(x)
        # An item that nobody labelled, -1, adds to no class.
        own = one_hot(labels.clamp(min=0), num_classes).to(x.dtype) * (labels >= 0)[:, None]
        return mixed, share[:, None] * own + (1 - share[:, None]) * own[partner]

    return mix


def _mixup(x: Tensor) -> Paired:
    """Zhang et al., ICLR 2018, arXiv:1710.09412: the weighted mean of two items.

    Kornia's draws the share evenly; the paper's comes from a beta distribution near 0 and 1.
    """
    import torch

    beta = torch.distributions.Beta(MIXUP_ALPHA, MIXUP_ALPHA)
    share = beta.sample((len(x),)).to(x)
    # Drawn on the processor, so that a seed means the same partners on every device.
    partner = torch.randperm(len(x)).to(x.device)
    weight = share.reshape(-1, *(1 for _ in x.shape[1:]))
    return weight * x + (1 - weight) * x[partner], partner, share


def _cutmix(x: Tensor) -> Paired:
    """Yun et al., ICCV 2019, arXiv:1905.04899: a rectangle of another image, by kornia."""
    import torch
    from kornia.augmentation import RandomCutMixV2

    cut = RandomCutMixV2(beta=CUTMIX_ALPHA, data_keys=["input", "class"], use_correct_lambda=True)
    # In place of their classes the images have their numbers: kornia gives back the partner's.
    mixed, pairs = cut(x, torch.arange(len(x), device=x.device))
    return mixed, pairs[0, :, 1].long(), pairs[0, :, 2]


MIXES: Mapping[str, Callable[[Tensor], Paired]] = {"cutmix": _cutmix, "mixup": _mixup}
"""By name: items -> mixed items, the partner of each, and the share that is still its own."""
