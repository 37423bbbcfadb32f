"""What moves an image moves its boxes, masks and points: seen by drawing them into the image."""

from __future__ import annotations

import pytest
import torch

from kdeploy.data.image_augmentation import IMAGE_AUGMENTATIONS
from kdeploy.data.moving_augmentation import check_moving, moving_augmenter
from kdeploy.errors import DataError

SHAPE = (1, 40, 48)


def scenes(count=16, seed=0):
    """Return images with one bright rectangle each, and its box, with a filler beside it."""
    random = torch.Generator().manual_seed(seed)
    x = torch.zeros(count, *SHAPE)
    boxes = torch.full((count, 2, 5), -1.0)
    for item in range(count):
        left, top = (int(torch.randint(8, 20, (), generator=random)) for _ in range(2))
        width, height = (int(torch.randint(6, 16, (), generator=random)) for _ in range(2))
        x[item, 0, top : top + height, left : left + width] = 1
        boxes[item, 0] = torch.tensor([left, top, left + width, top + height, item % 3])
    return x, boxes


def drawn(boxes):
    """Return where boxes cover pixels, (count, height, width)."""
    ys, xs = torch.meshgrid(
        torch.arange(SHAPE[1]) + 0.5, torch.arange(SHAPE[2]) + 0.5, indexing="ij"
    )
    b = boxes[:, 0, :4, None, None]
    inside = (xs > b[:, 0]) & (xs < b[:, 2]) & (ys > b[:, 1]) & (ys < b[:, 3])
    return inside & (boxes[:, 0, 4, None, None] >= 0)


@pytest.mark.parametrize("name", ["horizontal_flip", "random_crop"])
def test_boxes_stay_on_their_objects_to_the_pixel(name):
    x, boxes = scenes()
    torch.manual_seed(0)
    changed, moved = moving_augmenter([name], SHAPE, (2, 5))(x, boxes)
    assert (changed != x).any()
    assert torch.equal(drawn(moved), changed[:, 0] > 0.5)
    assert torch.equal(moved[:, 0, 4], boxes[:, 0, 4])
    assert (moved[:, 1] == -1).all()


def test_two_flips_are_none():
    x, boxes = scenes()
    flip = IMAGE_AUGMENTATIONS["horizontal_flip"](SHAPE)
    flip.p = 1.0
    from kdeploy.data import moving_augmentation as module

    once = module._with_boxes(flip, x, boxes)
    twice = module._with_boxes(flip, *once)
    assert torch.equal(twice[0], x)
    assert torch.equal(twice[1], boxes)
    assert not torch.equal(once[1], boxes)


def test_a_turned_box_is_the_hull_of_its_corners():
    x, boxes = scenes()
    torch.manual_seed(1)
    changed, moved = moving_augmenter(["rotation"], SHAPE, (2, 5))(x, boxes)
    is_object = changed[:, 0] > 0.5
    assert (drawn(moved) | ~is_object).float().mean() > 0.999
    grown = drawn(moved).sum((1, 2)) / is_object.sum((1, 2))
    assert (grown >= 0.95).all()
    assert (grown < 2).all()


@pytest.mark.parametrize("name", ["horizontal_flip", "random_crop", "rotation"])
def test_masks_follow_the_image_and_what_comes_in_has_no_class(name):
    x, _ = scenes()
    masks = (x[:, 0] * 2).to(torch.uint8)
    masks[:, 0] = 255
    torch.manual_seed(2)
    changed, moved = moving_augmenter([name], SHAPE, SHAPE[1:])(x + 0.25, masks)
    assert moved.dtype == torch.uint8
    assert set(moved.unique().tolist()) == {0, 2, 255}
    sure = (changed[:, 0] > 1.2) | ((changed[:, 0] > 0.2) & (changed[:, 0] < 0.3))
    sure &= moved != 255
    assert torch.equal((moved == 2)[sure], (changed[:, 0] > 1)[sure])
    came_in = changed[:, 0] == 0
    assert (moved[came_in] == 255).sum() >= 0.98 * came_in.sum()


def test_points_follow_the_image():
    x, boxes = scenes()
    points = torch.cat([boxes[:, :1, :2] + 1, torch.full((16, 1, 1), 2.0)], dim=-1)
    torch.manual_seed(3)
    changed, moved = moving_augmenter(["random_crop"], SHAPE, (1, 3))(x, points)
    for image, (px, py, seen) in zip(changed[:, 0], moved[:, 0], strict=True):
        column, row = int(px), int(py)
        assert seen == 2
        # Inside of the object, beside its corner.
        assert image[row, column] == 1
        assert image[row - 2, column] == image[row, column - 2] == 0


def test_what_leaves_the_image_is_no_object_any_more():
    x, boxes = scenes()
    boxes[:, 0, :4] = torch.tensor([0.0, 0.0, 2.0, 2.0])
    torch.manual_seed(0)
    _, moved = moving_augmenter(["random_crop"], SHAPE, (2, 5))(x, boxes)
    gone = moved[:, 0, 4] == -1
    assert gone.any()
    assert not gone.all()
    kept = moved[~gone][:, 0]
    assert (kept[:, 2:4] > kept[:, :2]).all()
    assert (kept[:, :4] >= 0).all()


def test_changes_of_colour_leave_targets_where_they_are():
    x, boxes = scenes()
    changed, moved = moving_augmenter(["color_jitter"], SHAPE, (2, 5))(x, boxes)
    assert (changed != x).any()
    assert torch.equal(moved, boxes)
    assert moving_augmenter([], SHAPE, (2, 5)) is None


@pytest.mark.parametrize("name", ["auto_augment", "rand_augment", "mixup", "cutmix"])
def test_what_cannot_move_targets_is_refused(name):
    with pytest.raises(DataError, match=f"`{name}` does not move boxes") as caught:
        check_moving([name], (2, 5), where="data.augment")
    assert "horizontal_flip" in caught.value.hint


def test_points_are_not_flipped():
    with pytest.raises(DataError, match="left points would be right") as caught:
        check_moving(["horizontal_flip"], (17, 3), where="data.augment")
    assert "pairs" in caught.value.hint
