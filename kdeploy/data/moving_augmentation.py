"""Random changes of images that move what is known of places in them: boxes, masks, points.

By kornia (arXiv:1910.02190), which counts from the centres of pixels; boxes and points here count
from the image's edge, half a pixel before: a flipped box is its mirror image, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from kdeploy.data.augmentation import AUGMENTATIONS, MIXES
from kdeploy.data.boxes import FILLER
from kdeploy.data.contract import Split, TargetReader, TaskReference, is_of_items, places_of
from kdeploy.data.mask_files import IGNORED
from kdeploy.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

MoveBoth: TypeAlias = "Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]"
GEOMETRIC = ("horizontal_flip", "random_crop", "rotation")
IN_PLACE = ("color_jitter", "jitter", "random_erasing", "scaling")
LEAST_VISIBLE = 0.2
"""A box of which less stays inside of the image is no object any more."""
HALF = 0.5
UNFELT = ("color_jitter", "jitter", "random_erasing")
"""What changes no place, direction or strength of what an item shows."""


def check_targets(names: Sequence[str], train: Split, task: TargetReader) -> None:
    """Refuse augmentations after which targets would say what is not so.

    Args:
        names: Of augmentations, which exist and fit the items.
        train: Whose targets the task has read.
        task: What the targets mean.

    Raises:
        DataError: it names what can be used.
    """
    if places_of(task, train):
        check_moving(names, train.y.shape[1:], where="data.augment")
    facts = getattr(task, "facts", {})
    has_classes = is_of_items(task) or facts.get("like") == TaskReference().name
    for name in names:
        if name in MIXES and not (has_classes and train.y.ndim == 1):
            raise DataError(
                f"data.augment: `{name}` mixes the classes of items, and the targets of task "
                f"`{_name(task)}` are no classes of items",
                hint=f"leave `{name}` out of `data.augment`",
            )
        if name in facts.get("without", ()):
            raise DataError(
                f"data.augment: after `{name}` the targets of task `{_name(task)}` would be wrong",
                hint=f"leave `{name}` out of `data.augment`",
            )


def doubts_of_targets(names: Sequence[str], train: Split, task: TargetReader) -> tuple[str, ...]:
    """Return a sentence for augmentations of which nobody says what they do to the targets."""
    asked = [f"`{n}`" for n in names if n not in UNFELT]
    if not asked or places_of(task, train) is not None:
        return ()
    return (
        f"targets of task `{_name(task)}` stay as they are after {', '.join(asked)}: right where "
        "they say nothing of places, directions or strengths in the item",
    )


def check_moving(names: Sequence[str], target_shape: Sequence[int], *, where: str) -> None:
    """Refuse what cannot take targets along.

    Args:
        names: Of augmentations, which exist.
        target_shape: Of one item's target.
        where: Begins messages.

    Raises:
        DataError: it names what can be used.
    """
    for name in names:
        if name not in (*GEOMETRIC, *IN_PLACE):
            raise DataError(
                f"{where}: `{name}` does not move boxes, masks or points with the image",
                hint=f"for such targets: {', '.join(sorted((*GEOMETRIC, *IN_PLACE)))}",
            )
        if name in GEOMETRIC and len(target_shape) < 2:
            raise DataError(
                f"{where}: `{name}` does not move targets of shape {tuple(target_shape)} with "
                "the item that they lie in",
                hint=f"for such targets: {', '.join(sorted(IN_PLACE))}; or augment in a "
                "`path.py:function`",
            )
        if name == "horizontal_flip" and _kind(target_shape) == "points":
            raise DataError(
                f"{where}: after `horizontal_flip` left points would be right ones",
                hint="leave it out, or flip in a `path.py:function`, where the pairs are known",
            )


def moving_augmenter(
    names: Sequence[str], shape: Sequence[int], target_shape: Sequence[int]
) -> MoveBoth | None:
    """Return the function that augments a float batch with its targets; None for nothing to do.

    Args:
        names: What to do, in order.
        shape: Of one image, (channels, height, width).
        target_shape: Of one target: (objects, 5) boxes, (height, width) a mask, (points, 3).
    """
    check_moving(names, target_shape, where="data.augment")
    kind = _kind(target_shape)
    operations = [_operation(name, shape, kind) for name in names]
    if not operations:
        return None

    def augment(x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        for operation in operations:
            x, targets = operation(x, targets)
        return x, targets

    return augment


def _name(task: TargetReader) -> str:
    return str(getattr(task, "name", "classification"))


def _kind(target_shape: Sequence[int]) -> str:
    if len(target_shape) == 2 and target_shape[1] == 5:
        return "boxes"
    if len(target_shape) == 2 and target_shape[1] == 3:
        return "points"
    return "mask"


def _operation(name: str, shape: Sequence[int], kind: str) -> MoveBoth:
    single = AUGMENTATIONS[name](shape)
    if name in IN_PLACE:
        return lambda x, targets: (single(x), targets)
    move = {"boxes": _with_boxes, "mask": _with_masks, "points": _with_points}[kind]
    return lambda x, targets: move(single, x, targets)


def _with_boxes(single: Any, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Move boxes (batch, objects, 5): hulls of the moved corners, inside, or no objects."""
    import torch

    # Kornia counts from the centre of the first pixel, targets here from its corner.
    changed, corners = _together(single, x, "bbox_xyxy", targets[..., :4] - HALF)
    corners = corners + HALF
    size = corners.new_tensor([x.shape[3], x.shape[2]] * 2)
    inside = torch.minimum(corners.clamp(min=0), size)
    whole, left = _area(corners), _area(inside)
    is_object = (targets[..., 4] != FILLER) & (left >= LEAST_VISIBLE * whole) & (left > 0)
    moved = torch.cat([inside, targets[..., 4:]], dim=-1)
    filler = torch.full_like(moved, FILLER)
    return changed, torch.where(is_object[..., None], moved, filler).to(targets.dtype)


def _with_masks(single: Any, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Move masks (batch, height, width); what comes in from outside has no class."""
    # Kornia fills with 0: classes are counted from 1 meanwhile.
    changed, masks = _together(single, x, "mask", targets[:, None].float() + 1)
    classes = masks[:, 0].round() - 1
    return changed, classes.masked_fill(classes < 0, IGNORED).to(targets.dtype)


def _with_points(single: Any, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Move points (batch, points, 3): x, y, and 0 for one that is not there."""
    import torch

    changed, places = _together(single, x, "keypoints", targets[..., :2] - HALF)
    places = places + HALF
    size = places.new_tensor([x.shape[3], x.shape[2]])
    # A point that left the image is absent: visibility 0.
    is_inside = ((places >= 0) & (places <= size)).all(-1, keepdim=True)
    seen = targets[..., 2:] * is_inside
    return changed, torch.cat([places, seen], dim=-1).to(targets.dtype)


def _together(single: Any, x: Tensor, key: str, targets: Tensor) -> tuple[Tensor, Tensor]:
    import torch
    from kornia.augmentation import AugmentationSequential

    both = AugmentationSequential(single, data_keys=["input", key])
    with torch.no_grad():
        changed, moved = both(x, targets)
    return changed, moved


def _area(corners: Tensor) -> Tensor:
    return (corners[..., 2:] - corners[..., :2]).clamp(min=0).prod(-1)
