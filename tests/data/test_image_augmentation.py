from __future__ import annotations

import numpy as np
import pytest
import torch

from kdeploy.data.augmentation import augmenter
from kdeploy.data.image_augmentation import GROUP, JITTER, SMALL_IMAGE
from kdeploy.errors import DataError

SHAPE = (3, 12, 12)


def batch(count=64, shape=SHAPE):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (count, *shape), generator=generator).float()


def test_crops_are_windows_of_the_padded_image():
    x = batch(64, (1, 8, 8))
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    offsets = set()
    for image, changed in zip(
        padded, augmenter(["random_crop"], (1, 8, 8))(x).numpy(), strict=True
    ):
        windows = {
            (top, left): image[:, top : top + 8, left : left + 8]
            for top in range(5)
            for left in range(5)
        }
        found = [at for at, window in windows.items() if np.allclose(window, changed, atol=1e-3)]
        assert len(found) == 1
        offsets.update(found)
    assert {top for top, _ in offsets} == {left for _, left in offsets} == set(range(5))


def test_flips_about_half_of_the_images_as_a_mirror_does():
    x = batch(400, (1, 6, 6))
    result = augmenter(["horizontal_flip"], (1, 6, 6))(x)
    is_flipped = (result == x.flip(-1)).flatten(1).all(dim=1)
    is_kept = (result == x).flatten(1).all(dim=1)
    assert bool((is_flipped ^ is_kept).all())
    # Binomial(400, 1/2) has a standard deviation of 10.
    assert abs(int(is_flipped.sum()) - 200) < 45


def test_color_jitter_is_brightness_contrast_and_saturation():
    x = batch(5)
    torch.manual_seed(4)
    result = augmenter(["color_jitter"], SHAPE)(x).numpy()
    torch.manual_seed(4)
    factors = torch.empty(3, 5, 1, 1, 1).uniform_(1 - JITTER, 1 + JITTER).numpy()
    brighter = x.numpy() * factors[0]
    average = brighter.mean(axis=(1, 2, 3), keepdims=True)
    contrasted = average * (1 - factors[1]) + brighter * factors[1]
    grey = contrasted.mean(axis=1, keepdims=True)
    expected = grey * (1 - factors[2]) + contrasted * factors[2]
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("name", ["auto_augment", "rand_augment"])
@pytest.mark.parametrize(("low", "high"), [(0, 255), (0, 1), (-3, 2)])
def test_policies_stay_within_the_range_of_the_stored_values(name, low, high):
    x = low + batch(96) / 256 * (high - low)
    result = augmenter([name], SHAPE)(x)
    slack = 1e-3 * (high - low)
    assert result.min() >= x.min() - slack
    assert result.max() <= x.max() + slack


@pytest.mark.parametrize("name", ["auto_augment", "rand_augment"])
def test_policies_do_the_same_to_bytes_and_to_fractions(name):
    augment = augmenter([name], SHAPE)
    torch.manual_seed(3)
    fractions = augment(batch() / 255)
    torch.manual_seed(3)
    assert torch.allclose(augment(batch()) / 255, fractions, atol=2 / 255)


def test_a_uniform_batch_stays_finite():
    assert torch.isfinite(augmenter(["rand_augment"], SHAPE)(torch.full((4, *SHAPE), 7.0))).all()


def test_a_last_group_of_one_image_is_changed_too():
    assert len(augmenter(["auto_augment", "rand_augment"], SHAPE)(batch(GROUP + 1))) == GROUP + 1


def test_small_images_follow_the_policy_of_small_images(monkeypatch):
    from kornia.augmentation import auto

    policies = []
    monkeypatch.setattr(auto, "AutoAugment", lambda policy: policies.append(policy))
    for size in (SMALL_IMAGE, SMALL_IMAGE + 1):
        augmenter(["auto_augment"], (3, size, size))
    assert [policy[0][0][0] for policy in policies] == ["invert", "posterize"]


def test_grey_images_do_without_the_operation_on_colours(monkeypatch):
    from kornia.augmentation import auto

    policies = []
    monkeypatch.setattr(auto, "RandAugment", lambda n, m, policy: policies.append(policy))
    for channels in (1, 3):
        augmenter(["rand_augment"], (channels, 8, 8))
    grey, colour = ({name for [(name, *_)] in policy} for policy in policies)
    assert colour - grey == {"color"}


@pytest.mark.parametrize("name", ["auto_augment", "rand_augment"])
def test_policies_refuse_what_is_neither_grey_nor_rgb(name):
    with pytest.raises(DataError, match="the items have 2 channels") as caught:
        augmenter([name], (2, 12, 12))
    assert "color_jitter" in caught.value.hint
