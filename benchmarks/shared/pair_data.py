"""The arrays of the panel of distillation pairs, made of what comes with libraries and Debian."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.load import DataReference, load

Part = tuple[NDArray[Any], NDArray[Any]]
FASHION_TEST_ITEMS = 3000
HUNDRED_TRAIN_ITEMS, HUNDRED_TEST_ITEMS = 4000, 2000
WORDNET = Path("/usr/share/wordnet")
NOUNS = {4: "act", 5: "animal", 6: "artifact", 13: "food", 15: "location", 18: "person"} | {
    20: "plant",
    26: "state",
}
VERBS = {30: "change", 31: "cognition", 32: "communication", 35: "contact", 36: "creation"} | {
    38: "motion",
    40: "possession",
    41: "social",
}
"""Of WordNet's lexicographers' files, by number, lexnames(5WN)."""
SERIES_STEPS = 29
TEXT_TOKENS, VOCABULARY = 20, 8000
TEXT_TRAIN_ITEMS, TEXT_TEST_ITEMS = 300, 200
"""Of each kind."""
LABELLED = {"fashion": 2000, "few": 500, "fashion8000": 8000, "fashion12000": 12000}
SCENES = {"places": 1000, "places2000": 2000, "masks": 1000, "masks2000": 2000}
TEST_SCENES = 500
EVERY = 2
"""Of so many pixels and lines of a scene one is kept."""
SHIRTS = (0, 6)
UPPER, SHOES = (0, 2, 3, 4, 6), (5, 7, 9)
"""T-shirts and shirts, clothing for the upper body, and what feet wear, in Fashion-MNIST."""
DIABETES_TEST_ITEMS = 142


def data_section(name: str, folder: Path) -> dict[str, str]:
    """Return a recipe's `data` of the panel; its files are made where they are not there yet."""
    files = {part: folder.resolve() / f"{name}-{part}.npz" for part in ("train", "test")}
    if not all(file.exists() for file in files.values()):
        folder.mkdir(parents=True, exist_ok=True)
        for part, (x, y) in parts_of(name).items():
            np.savez(files[part], x=x, y=y)
    return {"name": "arrays", **{part: str(file) for part, file in files.items()}}


def parts_of(name: str) -> Mapping[str, Part]:
    """Return train and test of the panel's data of a name."""
    made: Mapping[str, Callable[[], Mapping[str, Part]]] = {
        "series": _series,
        "text": partial(_text, "data.noun", NOUNS),
        "text of verbs": partial(_text, "data.verb", VERBS),
        "hundred": _hundred,
        "shirts": partial(_shirts, 1000),
        "shirts2400": partial(_shirts, 2400),
        "electricity": partial(_archived, "ItalyPowerDemand"),
        "gestures": partial(_archived, "GunPoint", every=3),
        "leaves": partial(_archived, "OSULeaf", every=4),
        "diabetes": _diabetes,
        **{scenes: partial(_scenes, scenes) for scenes in SCENES},
    }
    return made[name]() if name in made else _fashion(LABELLED[name])


def _fashion(items: int) -> Mapping[str, Part]:
    whole = load(DataReference(name="fashion_mnist"))
    test = 2000 if items == LABELLED["fashion8000"] else FASHION_TEST_ITEMS
    return {
        "train": (np.array(whole.train.x[:items]), np.array(whole.train.y[:items])),
        "test": (np.array(whole.test.x[:test]), np.array(whole.test.y[:test])),
    }


def _shirts(items: int) -> Mapping[str, Part]:
    """Return T-shirts and shirts alone, the two kinds that are hardest to tell apart."""
    made = {}
    for part, (x, y) in _fashion(LABELLED["fashion12000"]).items():
        rows = np.flatnonzero(np.isin(y, SHIRTS))[:items]
        made[part] = (x[rows], (y[rows] == SHIRTS[1]).astype(np.int64))
    return made


def _hundred() -> Mapping[str, Part]:
    """Return two handwritten digits side by side: the hundred numbers of two digits."""
    digits = load(DataReference(name="digits", parameters={"size": 16}))
    random = np.random.default_rng(0)
    counts = {"train": HUNDRED_TRAIN_ITEMS, "test": HUNDRED_TEST_ITEMS}
    made = {}
    for part, count in counts.items():
        one = getattr(digits, part)
        left, right = random.integers(len(one), size=(2, count))
        x = np.concatenate([one.x[left], one.x[right]], axis=-1)
        made[part] = (x, 10 * np.array(one.y)[left] + np.array(one.y)[right])
    return made


def _series() -> Mapping[str, Part]:
    """Return JapaneseVowels, 12 channels, padded with its last value to SERIES_STEPS."""
    import importlib.util

    package = importlib.util.find_spec("aeon")
    assert package is not None, "the panel needs aeon"
    assert package.origin is not None, "aeon has no folder"
    folder = Path(package.origin).parent / "datasets" / "data" / "JapaneseVowels"
    made = {}
    for part in ("train", "test"):
        text = (folder / f"JapaneseVowels_{part.upper()}.ts").read_text()
        lines = text.lower().partition("@data")[2].split()
        rows = [line.split(":") for line in lines]
        x = np.stack([_padded(row[:-1], SERIES_STEPS) for row in rows])
        made[part] = (x, np.array([int(row[-1]) - 1 for row in rows], np.int64))
    return made


def _padded(channels: list[str], length: int) -> NDArray[np.float32]:
    values = np.array([channel.split(",") for channel in channels], np.float32)
    return np.pad(values, ((0, 0), (0, length - values.shape[1])), mode="edge")


def _archived(problem: str, every: int = 1) -> Mapping[str, Part]:
    """Return a problem of the UCR archive in its own parts, one of so many steps in time."""
    whole = load(DataReference(name="ucr", parameters={"problem": problem}))
    held_out = whole.validation  # of the archive's training part
    return {
        "train": (
            np.concatenate([whole.train.x, held_out.x])[..., ::every],
            np.concatenate([whole.train.y, held_out.y]),
        ),
        "test": (np.array(whole.test.x)[..., ::every], np.array(whole.test.y)),
    }


def _diabetes() -> Mapping[str, Part]:
    """Return ten measurements of a patient and how the illness went in the next year."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    parts = {"test": order[:DIABETES_TEST_ITEMS], "train": order[DIABETES_TEST_ITEMS:]}
    return {
        name: (
            x[rows, :, None].astype(np.float32),
            _standardized(y[rows, None], y[parts["train"], None]),
        )
        for name, rows in parts.items()
    }


def _scenes(name: str) -> Mapping[str, Part]:
    """Return clothing on photographs, with where it lies, or with what each pixel is.

    Places are the middle, width and height of the box around all pieces, in pixels; a mask tells
    the photograph, clothing for the upper body, trousers, shoes and bags apart.
    """
    from models.detect_objects import scenes

    kind = "boxes" if name.startswith("places") else "masks"
    made = getattr(scenes, kind)(train=SCENES[name], test=TEST_SCENES)
    if kind == "boxes":
        targets = {part: _middle_and_size(made[f"y_{part}"]) for part in ("train", "test")}
        # The first scenes are the same however many there are: one unit for teacher and student.
        known = targets["train"][: min(SCENES.values())]
        return {
            part: (made[f"x_{part}"][..., ::EVERY, ::EVERY], _standardized(y, known))
            for part, y in targets.items()
        }
    kinds = np.full(11, 4, np.int64)  # bags
    kinds[0] = 0
    kinds[[1 + item for item in UPPER]] = 1
    kinds[1 + 1] = 2  # trousers
    kinds[[1 + item for item in SHOES]] = 3
    return {
        part: (
            made[f"x_{part}"][..., ::EVERY, ::EVERY],
            kinds[made[f"y_{part}"][..., ::EVERY, ::EVERY]],
        )
        for part in ("train", "test")
    }


def _standardized(y: NDArray[Any], known: NDArray[Any]) -> NDArray[np.float32]:
    """Return standard deviations from the mean of what is known."""
    return ((y - known.mean(axis=0)) / known.std(axis=0)).astype(np.float32)


def _middle_and_size(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (N, 4) of boxes (N, pieces, 5), whose last column is -1 where there is no piece."""
    is_none = boxes[..., 4:] < 0
    first = np.where(is_none, np.inf, boxes[..., :2]).min(axis=1)
    last = np.where(is_none, -np.inf, boxes[..., 2:4]).max(axis=1)
    return np.concatenate([(first + last) / 2, last - first], axis=1).astype(np.float32)


def _text(file: str, numbers: Mapping[int, str]) -> Mapping[str, Part]:
    """Return definitions of words as word ids, 0 for padding and 1 for rare words."""
    kinds: dict[int, list[str]] = {number: [] for number in numbers}
    for line in (WORDNET / file).read_text(encoding="utf-8").splitlines():
        if not line.startswith("  "):  # the licence
            head, _, gloss = line.partition(" | ")
            kinds.get(int(head.split()[1]), []).append(gloss.partition('; "')[0])
    texts: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
    for label, glosses in enumerate(kinds.values()):
        once = list(dict.fromkeys(glosses))
        order = np.random.default_rng(label).permutation(len(once))
        chosen = [(once[i], label) for i in order[: TEXT_TRAIN_ITEMS + TEXT_TEST_ITEMS]]
        texts["test"] += chosen[:TEXT_TEST_ITEMS]
        texts["train"] += chosen[TEXT_TEST_ITEMS:]
    words = Counter(word for text, _ in texts["train"] for word in _words(text))
    ids = {word: 2 + i for i, (word, _) in enumerate(words.most_common(VOCABULARY - 2))}
    return {part: _encoded(items, ids) for part, items in texts.items()}


def _encoded(items: list[tuple[str, int]], ids: Mapping[str, int]) -> Part:
    x = np.zeros((len(items), TEXT_TOKENS), np.int64)
    for row, (text, _) in enumerate(items):
        known = [ids.get(word, 1) for word in _words(text)[:TEXT_TOKENS]]
        x[row, : len(known)] = known
    return x, np.array([label for _, label in items], np.int64)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())
