from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from kdeploy.data.datasets import digits as module
from kdeploy.data.datasets.digits import digits, enlarged


def test_at_its_own_size_holds_scikit_learns_images_and_labels():
    parts = digits(size=8)
    x = np.concatenate([parts.train.x, parts.test.x])[:, 0]
    y = np.concatenate([parts.train.y, parts.test.y])
    found = sorted(
        (label, *image) for label, image in zip(y, x.reshape(len(x), -1).tolist(), strict=True)
    )
    expected = load_digits()
    images = np.rint(expected.data * 255 / 16).astype(int).tolist()
    assert found == sorted(
        (label, *image) for label, image in zip(expected.target, images, strict=True)
    )


def test_a_quarter_of_each_digit_is_for_testing():
    parts = digits()
    counts = np.bincount(parts.train.y) + np.bincount(parts.test.y)
    np.testing.assert_allclose(np.bincount(parts.test.y), counts / 4, atol=0.5)


def test_the_test_part_is_always_the_same():
    assert len(digits().test) == 450
    # Written down once: results of different runs and machines are compared on this part.
    assert digits().test.y[:12].tolist() == PINNED


@pytest.mark.parametrize("size", [8, 16, 21, 32])
def test_enlarges_as_pillow_does(size):
    image = np.random.default_rng(0).uniform(0, 255, (8, 8)).astype(np.float32)
    expected = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(enlarged(image[None], size)[0], np.asarray(expected), atol=1e-3)


def test_says_what_the_model_sees():
    parts = digits(size=20)
    assert parts.preprocessing.shape == (1, 20, 20) == parts.train.x.shape[1:]
    assert parts.train.x.dtype == np.uint8
    assert parts.train.x.max() == 255
    seen = parts.preprocessing.apply(parts.train.x)
    assert abs(float(seen.mean())) < 1e-3
    assert float(seen.std()) == pytest.approx(1, abs=1e-3)


def test_labels_belong_to_their_images():
    parts = digits()
    train, test = (
        part.x.reshape(len(part), -1).astype(float) for part in (parts.train, parts.test)
    )
    centres = np.stack([train[parts.train.y == label].mean(axis=0) for label in range(10)])
    nearest = ((test[:, None] - centres) ** 2).sum(axis=-1).argmin(axis=1)
    assert np.mean(nearest == parts.test.y) > 0.85


def test_asks_scikit_learn_where_its_file_has_moved(monkeypatch):
    expected = digits()
    monkeypatch.setattr(module.Path, "is_file", lambda self: False)
    np.testing.assert_array_equal(digits().test.x, expected.test.x)


def test_loads_without_the_heavy_libraries():
    code = (
        "import sys; from kdeploy.data.load import DataReference, load; "
        "load(DataReference(name='digits')); "
        "print([m for m in ('torch', 'scipy', 'sklearn', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


PINNED = [1, 4, 7, 0, 2, 5, 8, 1, 9, 5, 5, 0]
