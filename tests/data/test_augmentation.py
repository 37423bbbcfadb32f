from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kdeploy.data.augmentation import AUGMENTATIONS, MIXES, augmenter, check_augmentations
from kdeploy.data.image_augmentation import IMAGE_AUGMENTATIONS
from kdeploy.data.signal_augmentation import SIGNAL_AUGMENTATIONS
from kdeploy.errors import DataError, UnknownName

IMAGE, SIGNAL = (3, 12, 12), (2, 60)


def shape_for(name):
    return IMAGE if name in IMAGE_AUGMENTATIONS else SIGNAL


def batch(count=64, shape=IMAGE):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (count, *shape), generator=generator).float()


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *((name, shape) for name in IMAGE_AUGMENTATIONS for shape in [(1, 28, 28), (3, 40, 24)]),
        *((name, shape) for name in SIGNAL_AUGMENTATIONS for shape in [(1, 24), (6, 100)]),
    ],
)
def test_keeps_shape_and_changes_something(name, shape):
    x = batch(8, shape)
    result = augmenter([name], shape)(x)
    assert result.shape == x.shape
    assert result.dtype == torch.float32
    assert torch.isfinite(result).all()
    assert not torch.equal(result, x)
    assert not result.requires_grad


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_seed_of_torch_decides_everything(name):
    shape = shape_for(name)
    augment = augmenter([name], shape)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(augment(batch(shape=shape)))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_draws_for_each_item_apart(name):
    shape = shape_for(name)
    item = batch(1, shape)
    result = augmenter([name], shape)(item.expand(64, *shape).clone())
    assert len({tuple(changed.flatten().tolist()) for changed in result}) > 1


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_does_not_change_the_batch_that_it_was_given(name):
    shape = shape_for(name)
    x = batch(shape=shape)
    augmenter([name], shape)(x)
    assert torch.equal(x, batch(shape=shape))


def test_acts_in_the_order_given():
    x = batch(8, (1, 12, 12))
    torch.manual_seed(0)
    both = augmenter(["horizontal_flip", "random_erasing"], (1, 12, 12))(x)
    torch.manual_seed(0)
    flipped = augmenter(["horizontal_flip"], (1, 12, 12))(x)
    expected = augmenter(["random_erasing"], (1, 12, 12))(flipped)
    assert torch.equal(both, expected)


def test_nothing_asked_is_nothing_to_do():
    assert augmenter([], IMAGE) is None
    assert augmenter((), (1, 128)) is None


def test_leaves_mixes_to_the_mixer():
    assert augmenter(["mixup", "cutmix"], IMAGE) is None
    x = batch(8)
    torch.manual_seed(0)
    both = augmenter(["random_erasing", "mixup"], IMAGE)(x)
    torch.manual_seed(0)
    assert torch.equal(both, augmenter(["random_erasing"], IMAGE)(x))


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UnknownName, match="did you mean `horizontal_flip`"):
        augmenter(["horizontal_flop"], IMAGE)


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [
        ("rotation", SIGNAL, "is for images"),
        ("cutmix", SIGNAL, "is for images"),
        ("time_shift", IMAGE, "is for signals"),
        ("jitter", (7,), "is for signals"),
    ],
)
def test_items_of_another_kind_are_refused(name, shape, kind):
    with pytest.raises(DataError, match=f"`{name}` {kind}") as caught:
        check_augmentations([name], shape)
    assert str(shape) in caught.value.message


def test_what_follows_a_mix_is_refused():
    check_augmentations(["random_crop", "mixup", "cutmix"], IMAGE)
    with pytest.raises(DataError, match=r"`random_crop` comes after `mixup`[^$]*put `mixup` last"):
        check_augmentations(["mixup", "random_crop"], IMAGE)


def test_names_are_known_without_torch():
    code = (
        "import sys; from kdeploy.data.augmentation import check_augmentations; "
        "check_augmentations(['random_crop', 'mixup'], (1, 8, 8)); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_guide_lists_every_name():
    guide = (Path(__file__).parents[2] / "docs" / "guide.md").read_text()
    assert [name for name in {*AUGMENTATIONS, *MIXES} if f"`{name}`" not in guide] == []
