"""Scenes: pictures of Fashion-MNIST pasted on photographs, with exact boxes and masks.

The pixels are real, the places are drawn: whatever is told of a scene is known exactly. The
photographs are scikit-learn's two; scenes to train on and scenes to test on show different pictures
of clothing, on different halves of the photographs.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from kdeploy.data.contract import Split
from kdeploy.data.datasets.fashion_mnist import fashion_mnist

SIDE = 64
MOST_OBJECTS = 4
SMALLEST, LARGEST = 16, 36
OPAQUE = 64
"""Brightness from which a pixel of clothing hides what is behind it; darker ones show through."""
MOST_OVERLAP = 0.2
Box = tuple[int, int, int, int]


def boxes(*, train: int = 3000, test: int = 800, seed: int = 0) -> dict:
    """Return scenes with boxes (N, 4, 5): x1 y1 x2 y2 in pixels, the class, -1 where none is."""
    return _data("boxes", train, test, seed)


def masks(*, train: int = 3000, test: int = 800, seed: int = 0) -> dict:
    """Return scenes with masks (N, height, width): 0 for the photograph, then the classes."""
    return _data("masks", train, test, seed)


def _data(kind: str, train: int, test: int, seed: int) -> dict:
    clothing = fashion_mnist()
    names = list(clothing.preprocessing.classes)
    made: dict = {"classes": names if kind == "boxes" else ["background", *names]}
    for part, split, count in (("train", clothing.train, train), ("test", clothing.test, test)):
        scenes = [
            _scene(split, half=part, random=np.random.default_rng([seed, part == "test", number]))
            for number in range(count)
        ]
        made[f"x_{part}"] = np.stack([scene["pixels"] for scene in scenes])
        made[f"y_{part}"] = np.stack([scene[kind] for scene in scenes])
    pixels = made["x_train"].astype(np.float64) / 255
    made |= {
        "mean": pixels.mean((0, 2, 3)).round(4).tolist(),
        "std": pixels.std((0, 2, 3)).round(4).tolist(),
        "licence": f"Fashion-MNIST: {clothing.licence}; photographs: BSD-3-Clause (scikit-learn)",
        "source": f"{clothing.source} on scikit-learn's photographs",
    }
    return made


def _scene(clothing: Split, *, half: str, random: np.random.Generator) -> dict:
    canvas = _background(half, random)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    found = np.full((MOST_OBJECTS, 5), -1, np.float32)
    placed: list[Box] = []
    for _ in range(random.integers(1, MOST_OBJECTS + 1)):
        item = int(random.integers(len(clothing.y)))
        side = int(random.integers(SMALLEST, LARGEST + 1))
        picture = np.asarray(
            Image.fromarray(clothing.x[item, 0]).resize((side, side), Image.Resampling.BILINEAR)
        ).astype(np.float32)
        alpha = np.clip(picture / OPAQUE, 0, 1)
        rows, columns = (np.flatnonzero((alpha > 0.5).any(axis)) for axis in (1, 0))
        place = _free_place(rows, columns, side, placed, random)
        if place is None:
            continue
        left, top = place
        area = (slice(top, top + side), slice(left, left + side))
        tint = random.uniform(0.5, 1.0, 3).astype(np.float32)
        layer = alpha[..., None]
        canvas[area] = canvas[area] * (1 - layer) + picture[..., None] * tint * layer
        label = int(clothing.y[item])
        mask[area][alpha > 0.5] = label + 1
        box = (
            left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1,
        )  # fmt: skip
        found[len(placed)] = (*box, label)
        placed.append(box)
    pixels = canvas.round().clip(0, 255).astype(np.uint8).transpose(2, 0, 1)
    return {"pixels": pixels, "boxes": found, "masks": mask}


def _free_place(
    rows: np.ndarray, columns: np.ndarray, side: int, placed: list[Box], random: np.random.Generator
) -> tuple[int, int] | None:
    """Return left and top of a picture that hides little of the others; None after some tries."""
    for _ in range(20):
        left, top = (int(v) for v in random.integers(0, SIDE - side + 1, 2))
        own = (left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1)
        if all(_overlap(own, other) <= MOST_OVERLAP for other in placed):
            return left, top
    return None


def _overlap(own: Box, other: Box) -> float:
    """Return what the two boxes share, as a part of the smaller one."""
    width = min(own[2], other[2]) - max(own[0], other[0])
    height = min(own[3], other[3]) - max(own[1], other[1])
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (own, other)]
    return max(width, 0) * max(height, 0) / min(areas)


_PHOTOGRAPHS: list[np.ndarray] = []


def _background(half: str, random: np.random.Generator) -> np.ndarray:
    """Return a piece of the left half of a photograph to train on, of the right half to test on."""
    if not _PHOTOGRAPHS:
        from sklearn.datasets import load_sample_images

        _PHOTOGRAPHS.extend(load_sample_images().images)
    photograph = _PHOTOGRAPHS[int(random.integers(len(_PHOTOGRAPHS)))]
    middle = photograph.shape[1] // 2
    photograph = photograph[:, :middle] if half == "train" else photograph[:, middle:]
    side = int(random.integers(SIDE, 256))
    top = int(random.integers(photograph.shape[0] - side + 1))
    left = int(random.integers(photograph.shape[1] - side + 1))
    piece = Image.fromarray(photograph[top : top + side, left : left + side])
    if random.integers(2):
        piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(piece.resize((SIDE, SIDE), Image.Resampling.BILINEAR)).astype(np.float32)
