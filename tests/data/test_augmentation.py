from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from kdeploy.data.augmentation import AUGMENTATIONS, JITTER, augmenter, check_augmentations
from kdeploy.errors import DataError, UnknownName

SHAPE = (3, 12, 12)


def batch(count=64, shape=SHAPE):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (count, *shape), generator=generator).float()


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 40, 24)])
def test_keeps_shape_and_changes_something(name, shape):
    x = batch(8, shape)
    result = augmenter([name], shape)(x)
    assert result.shape == x.shape
    assert result.dtype == torch.float32
    assert torch.isfinite(result).all()
    assert not torch.equal(result, x)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_seed_of_torch_decides_everything(name):
    augment = augmenter([name], SHAPE)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(augment(batch()))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_draws_for_each_image_apart(name):
    image = batch(1)
    result = augmenter([name], SHAPE)(image.repeat(64, 1, 1, 1))
    assert len({tuple(changed.flatten().tolist()) for changed in result}) > 1


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_does_not_change_the_batch_that_it_was_given(name):
    x = batch()
    augmenter([name], SHAPE)(x)
    assert torch.equal(x, batch())


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


def test_acts_in_the_order_given():
    x = batch(8, (1, 12, 12))
    torch.manual_seed(0)
    both = augmenter(["horizontal_flip", "random_erasing"], (1, 12, 12))(x)
    torch.manual_seed(0)
    flipped = augmenter(["horizontal_flip"], (1, 12, 12))(x)
    expected = augmenter(["random_erasing"], (1, 12, 12))(flipped)
    assert torch.equal(both, expected)


def test_nothing_asked_is_nothing_to_do():
    assert augmenter([], SHAPE) is None
    assert augmenter((), (1, 128)) is None


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UnknownName, match="did you mean `horizontal_flip`"):
        augmenter(["horizontal_flop"], SHAPE)


def test_signals_are_refused():
    with pytest.raises(DataError, match="is for images"):
        check_augmentations(["rotation"], (2, 128))


def test_names_are_known_without_torch():
    code = (
        "import sys; from kdeploy.data.augmentation import check_augmentations; "
        "check_augmentations(['random_crop'], (1, 8, 8)); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
