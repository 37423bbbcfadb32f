"""Photographs that come with libraries and with Debian, as items without labels.

Pieces of 32 photographs: of those that a network learns from, many pieces of any size and place;
of the others, which it is judged on, further ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from kdeploy.data.contract import NOT_COUNTED
from kdeploy.errors import MissingDependency, Unavailable

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
"""Of ImageNet, as torchvision's networks were trained."""
SCIKIT_LEARN = "sklearn", "datasets/images", ("china.jpg", "flower.jpg")
SCIKIT_IMAGE = (
    "skimage", "data",
    ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg"),
)  # fmt: skip
DEBIAN = Path("/usr/share/backgrounds")
PACKAGES = "lomiri-wallpapers-16.04 mate-backgrounds"
WALLPAPERS = (
    "Bridge_by_Sander_Klootwijk.jpg", "Dragonfly_by_Bolly.jpg", "Picture_0B_by_freespace.jpg",
    "Picture_1A_by_freespace.jpg", "Wine_by_Jakkub_Mede.jpg", "aitzgorri_by_Aitzol_Berasategi.jpg",
    "free_by_Peter_Nerlich.jpg", "friends_by_Aitzol_Berasategi.jpg",
    "greentock_by_Peter_Nerlich.jpg", "life_by_Aitzol_Berasategi.jpg",
    "picosdeeuropa_by_Aitzol_Berasategi.jpg", "seeding_by_Clements_Engelhardt.jpg",
    "sunset_by_Aitzol_Berasategi.jpg",
    *(f"mate/nature/{name}.jpg" for name in (
        "Aqua", "Blinds", "Dune", "FreshFlower", "Garden", "GreenMeadow", "LadyBird", "RainDrops",
        "Storm", "TwoWings", "Wood", "YellowFlower")),
)  # fmt: skip
TEST = (
    "china.jpg", "chelsea.png", "coffee.png", "life_by_Aitzol_Berasategi.jpg",
    "Wine_by_Jakkub_Mede.jpg", "Picture_1A_by_freespace.jpg", "LadyBird.jpg", "Storm.jpg",
)  # fmt: skip
"""No network is shown these, nor is INT8 calibrated on them."""
LONGEST = 1000
"""Pixels of the longer side, above which a photograph is made smaller at first."""
SMALLEST = 0.35
"""Of the shorter side: the smallest piece."""


def photographs(*, train: int = 1200, test: int = 400, side: int = 224, seed: int = 0) -> dict:
    """Return pieces of photographs (N, 3, side, side), a class of none; a tenth is validation.

    Raises:
        Unavailable: a photograph is not here; the hint installs all of its package.
    """
    parts = {"train": train, "validation": max(train // 10, 8), "test": test}
    made: dict = {}
    for part, count in parts.items():
        files = [file for file in files_here() if (file.name in TEST) == (part == "test")]
        pieces = _pieces(files, count, side, np.random.default_rng([seed, len(part)]))
        made[f"x_{part}"] = np.stack([piece.transpose(2, 0, 1) for piece in pieces])
        made[f"y_{part}"] = np.full(count, NOT_COUNTED, np.int64)
    return {
        **made,
        "mean": MEAN,
        "std": STD,
        "resize": "bilinear",
        "source": "photographs of scikit-learn, scikit-image and the Debian packages "
        f"{PACKAGES.replace(' ', ' and ')}",
        "licence": "each photograph its own: see the packages",
    }


def files_here() -> list[Path]:
    """Return all photographs, in an order that never changes."""
    files = [file for found in (SCIKIT_LEARN, SCIKIT_IMAGE) for file in _of_library(*found)]
    files += [DEBIAN / name for name in WALLPAPERS]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise Unavailable(
            f"{len(missing)} of {len(files)} photographs are not here: {missing[0]}, ...",
            hint=f"apt-get install {PACKAGES}",
        )
    return files


def _of_library(module: str, folder: str, names: Sequence[str]) -> list[Path]:
    found = find_spec(module)
    if found is None or not found.submodule_search_locations:
        library = {"sklearn": "scikit-learn", "skimage": "scikit-image"}[module]
        raise MissingDependency.named(
            library, needed_for="the photographs", pip=f"--no-deps {library}"
        )
    return [Path(found.submodule_search_locations[0]) / folder / name for name in names]


def _pieces(
    files: Sequence[Path], count: int, side: int, random: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yield squares of the photographs in turn, mirrored or not."""
    pictures = [_opened(file) for file in files]
    for number in range(count):
        picture = pictures[number % len(pictures)]
        shorter = min(picture.size)
        size = int(random.uniform(SMALLEST, 1.0) * shorter)
        left, top = (int(random.integers(length - size + 1)) for length in picture.size)
        piece = picture.resize(
            (side, side), Image.Resampling.BILINEAR, box=(left, top, left + size, top + size)
        )
        if random.integers(2):
            piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        yield np.asarray(piece)


def _opened(file: Path) -> Image.Image:
    picture = Image.open(file)
    picture.draft("RGB", (LONGEST, LONGEST))  # of JPEG: decoded at a fraction of its size
    picture = picture.convert("RGB")
    picture.thumbnail((LONGEST, LONGEST))
    return picture
