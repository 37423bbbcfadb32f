"""Time series of the UCR and UEA archives; some come with the library aeon.

H. A. Dau et al., The UCR Time Series Archive, 2019, arXiv:1810.07758; A. Bagnall et al., The UEA
Multivariate Time Series Classification Archive, 2018, arXiv:1811.00075.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import io
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.cache import cache_folder, downloaded
from kdeploy.data.contract import Parts, Preprocessing, Split, dataset
from kdeploy.data.ts_file import LabelledSeries, read_ts
from kdeploy.errors import DataError, FileMissing, MissingDependency, Unavailable, UnknownName

ARCHIVE = "https://timeseriesclassification.com/aeon-toolkit/"
PARTS = ("TRAIN", "TEST")
SIGNIFICANT_DIGITS = 6
"""Of mean and std, so that they do not follow the order in which a processor sums."""


@dataset()
def ucr(*, problem: str = "JapaneseVowels_eq", folder: Path | None = None) -> Parts:
    """Return a classification problem in the archive's own parts, x (N, channels, length).

    Args:
        problem: Its name in the archive, e.g. `GunPoint`. About ten come with aeon (its import is
            not needed), the others are downloaded; the archive publishes no checksums.
        folder: Where NAME_TRAIN.ts and NAME_TEST.ts lie (`--data-dir`). Left out, they are looked
            for in aeon and in the cache.
    """
    train, test = (
        read_ts(io.StringIO(text), where=f"{problem}_{part}.ts")
        for part, text in zip(PARTS, _texts(problem, folder), strict=True)
    )
    if train.classes != test.classes:
        raise DataError(
            f"{problem}: train has the classes {', '.join(train.classes)}, test the classes "
            f"{', '.join(test.classes)}",
            hint="write the same `@classLabel` line into both files",
        )
    mean, std = _statistics(train.x)
    return Parts(
        train=_split(train, f"{problem}_TRAIN.ts"),
        test=_split(test, f"{problem}_TEST.ts"),
        preprocessing=Preprocessing(
            shape=train.x.shape[1:], mean=mean, std=std, classes=train.classes
        ),
        licence="of the set's donors, see its source; aeon, which carries it, is BSD-3-Clause",
        source=f"https://timeseriesclassification.com/description.php?Dataset={problem}",
    )


def _split(series: LabelledSeries, origin: str) -> Split:
    labels = [series.classes.index(label) for label in series.labels]
    return Split(x=series.x, y=np.array(labels, dtype=np.int64), origin=origin)


def _statistics(x: NDArray[np.float32]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std per channel; a constant channel has std 1, which leaves it finite."""
    mean, std = x.mean(axis=(0, 2), dtype=np.float64), x.std(axis=(0, 2), dtype=np.float64)
    return _rounded(mean), _rounded(np.where(std == 0, 1.0, std))


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{value:.{SIGNIFICANT_DIGITS}g}") for value in values)


def _texts(problem: str, folder: Path | None) -> tuple[str, ...]:
    """Return both files' contents from the first place that has them."""
    names = [f"{problem}_{part}.ts" for part in PARTS]
    if folder is not None:
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise FileMissing(
                f"{folder} lacks {' and '.join(missing)}",
                hint="name the folder with both files, or leave `folder` out to search",
            )
        return tuple((folder / name).read_text() for name in names)
    bundled = _bundled()
    if problem in bundled:
        return tuple((bundled[problem] / name).read_text() for name in names)
    known = _listed() | set(bundled)
    if problem not in known:
        # Of nearly 300 names the message lists those at hand and those that are spelled alike.
        near = {*bundled, *difflib.get_close_matches(problem, known)}
        raise UnknownName.among("time series set", problem, near, where="data.problem")
    with zipfile.ZipFile(_downloaded(problem, sorted(bundled))) as archive:
        return tuple(archive.read(name).decode() for name in names)


def _bundled() -> dict[str, Path]:
    """Return the folders of the sets of classes that come with aeon, by name."""
    trains = _aeon().glob("data/*/*_TRAIN.ts")
    found = {file.name.removesuffix("_TRAIN.ts"): file.parent for file in trains}
    return {n: folder for n, folder in found.items() if (folder / f"{n}_TEST.ts").is_file()}


def _listed() -> set[str]:
    """Return the archive's names from aeon's list, read as text: its import takes seconds.

    An aeon without that list (before 1.6) still gives what it carries.
    """
    tree = ast.parse((_aeon() / "tsc_datasets.py").read_text())
    lists = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    return set(ast.literal_eval(lists["tsc_zenodo"])) if "tsc_zenodo" in lists else set()


def _aeon() -> Path:
    package = importlib.util.find_spec("aeon")
    if package is None or package.origin is None:
        raise MissingDependency.named("aeon", needed_for="data `ucr`", pip="--no-deps aeon")
    return Path(package.origin).parent / "datasets"


def _downloaded(problem: str, bundled: list[str]) -> Path:
    folder = cache_folder("ucr")
    try:
        file = downloaded(f"{ARCHIVE}{problem}.zip", sha256=None, folder=folder)
        if zipfile.is_zipfile(file):
            return file
        file.unlink()
        reason = "the answer is no zip archive"
    except OSError as error:
        reason = type(error).__name__
    raise Unavailable(
        f"{problem} is not on this machine and cannot be downloaded ({ARCHIVE}: {reason})",
        hint=f"put its two .ts files into a folder and name that (`--data-dir FOLDER`), put "
        f"{problem}.zip into {folder}, or use one that comes with aeon: {', '.join(bundled)}",
    )
