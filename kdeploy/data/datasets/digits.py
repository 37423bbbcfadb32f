"""Handwritten digits: 1797 real images that come with scikit-learn, the built-in default.

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository, 1998, https://doi.org/10.24432/C50P49 (the 1797 images of 13 writers; 8x8, 0..16).
"""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kdeploy.data.contract import Parts, Preprocessing, Split, dataset
from kdeploy.data.split import stratified
from kdeploy.data.statistics import channel_statistics
from kdeploy.errors import MissingDependency

RAW_SIZE = 8  # pixels on a side
RAW_PEAK = 16  # scikit-learn's images count 0 to 16 ink pixels of 4x4
TEST_FRACTION = 0.25
TEST_SEED = 1998
"""Of the test part, which is the same for every run, whatever the run's own seed."""


@dataset()
def digits(*, size: Annotated[int, Field(ge=8, le=128)] = 16) -> Parts:
    """Return the digits with a fixed, stratified quarter as the test part.

    Args:
        size: Height and width in pixels that the 8x8 originals are enlarged to (bilinear).
    """
    table = _table()
    raw = table[:, :-1].reshape(-1, RAW_SIZE, RAW_SIZE)
    x = np.rint(enlarged(raw, size) * (255 / RAW_PEAK)).astype(np.uint8)[:, None]
    y = table[:, -1].astype(np.int64)
    kept, held_out = stratified(y, fraction=TEST_FRACTION, seed=TEST_SEED)
    mean, std = channel_statistics(x[kept])
    return Parts(
        train=Split(x=x[kept], y=y[kept], origin="scikit-learn's digits"),
        test=Split(x=x[held_out], y=y[held_out], origin="scikit-learn's digits"),
        preprocessing=Preprocessing(
            shape=(1, size, size),
            scale=1 / 255,
            mean=mean,
            std=std,
            resize="bilinear",
            classes=tuple("0123456789"),
        ),
        licence="CC-BY-4.0",
        source="https://doi.org/10.24432/C50P49",
    )


def enlarged(images: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Return images (N, s, s) as (N, size, size), bilinear, with pixel centres as in Pillow."""
    small = images.shape[-1]
    centres = ((np.arange(size) + 0.5) * small / size - 0.5).clip(0, small - 1)
    weights = np.clip(1 - np.abs(centres[:, None] - np.arange(small)), 0, None)  # (size, s)
    enlarged_images: NDArray[np.float64] = weights @ images @ weights.T
    return enlarged_images


def _table() -> NDArray[np.float64]:
    """Return (1797, 65): 64 pixels and the label.

    Scikit-learn itself is not imported where its file is found: that takes 1.5 s and scipy.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise MissingDependency.named("sklearn", needed_for="digits", pip="scikit-learn")
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if file.is_file():
        with gzip.open(file, "rt") as lines:
            return np.loadtxt(lines, delimiter=",")
    from sklearn.datasets import load_digits

    loaded = load_digits()
    return np.column_stack([loaded.data, loaded.target]).astype(np.float64)
