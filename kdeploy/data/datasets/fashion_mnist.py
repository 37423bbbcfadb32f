"""Fashion-MNIST: 60 000 + 10 000 grey 28x28 pictures of ten kinds of clothing.

H. Xiao, K. Rasul and R. Vollgraf, 2017, arXiv:1708.07747.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from kdeploy.data.cache import cache_folder, downloaded
from kdeploy.data.contract import Parts, Preprocessing, Split, dataset
from kdeploy.data.idx import read_idx
from kdeploy.errors import FileMissing, Unavailable

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
MIRRORS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
)
# The Debian package holds the same compressed streams under a shorter gzip header.
SHA256 = {
    "train-images-idx3-ubyte": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
PREPROCESSING = Preprocessing(
    shape=(1, 28, 28),
    scale=1 / 255,
    mean=(0.286,),  # of the 60 000 training images
    std=(0.353,),
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
)


@dataset()
def fashion_mnist(*, folder: Path | None = None) -> Parts:
    """Return the official parts from the first place that has all four files.

    Args:
        folder: Where the four IDX files lie (`--data-dir`), plain or gzip. Left out, they are
            looked for in $KDEPLOY_DATA, in the Debian package dataset-fashion-mnist and in the
            cache, and downloaded if they are in none.
    """
    files = _located(folder)
    return Parts(
        train=_split(files["train-images-idx3-ubyte"], files["train-labels-idx1-ubyte"]),
        test=_split(files["t10k-images-idx3-ubyte"], files["t10k-labels-idx1-ubyte"]),
        preprocessing=PREPROCESSING,
        licence="MIT",
        source="https://github.com/zalandoresearch/fashion-mnist",
    )


def _split(images: Path, labels: Path) -> Split:
    return Split(
        x=read_idx(images, axes=3)[:, None],
        y=read_idx(labels, axes=1).astype("int64"),
        origin=str(images),
    )


def _located(folder: Path | None) -> dict[str, Path]:
    if folder is not None:
        files = _files_in(folder)
        if files is None:
            missing = [f"{name}.gz" for name in SHA256 if _file(folder, name) is None]
            raise FileMissing(
                f"{folder} lacks {', '.join(missing)} of Fashion-MNIST",
                hint="name the folder with all four files, or leave `folder` out to search",
            )
        return files
    found = (_files_in(place) for place in _places())
    return next((files for files in found if files is not None), None) or _downloaded()


def _places() -> Iterator[Path]:
    if "KDEPLOY_DATA" in os.environ:
        own = Path(os.environ["KDEPLOY_DATA"])
        yield from (own, own / "fashion-mnist")
    yield DEBIAN
    yield cache_folder("fashion-mnist")


def _files_in(folder: Path) -> dict[str, Path] | None:
    files = {name: file for name in SHA256 if (file := _file(folder, name)) is not None}
    return files if len(files) == len(SHA256) else None


def _file(folder: Path, name: str) -> Path | None:
    candidates = (folder / f"{name}.gz", folder / name)
    return next((file for file in candidates if file.is_file()), None)


def _downloaded() -> dict[str, Path]:
    """Download what the cache lacks, checked by checksum, from the first mirror that answers."""
    folder = cache_folder("fashion-mnist")
    reasons = []
    for mirror in MIRRORS:
        try:
            return {
                name: downloaded(f"{mirror}{name}.gz", sha256=checksum, folder=folder)
                for name, checksum in SHA256.items()
            }
        except (OSError, ValueError) as error:  # no connection, or a checksum that does not hold
            reasons.append(f"{mirror}: {type(error).__name__}")
    raise Unavailable(
        f"Fashion-MNIST is not on this machine and cannot be downloaded ({'; '.join(reasons)})",
        hint="one of four ways: `--data-dir FOLDER` with the four .gz files (in a recipe: "
        "`data: {name: fashion_mnist, folder: FOLDER}`); `export KDEPLOY_DATA=FOLDER`; "
        f"`apt install dataset-fashion-mnist`; or put them (or connect once) into {folder}",
    )
