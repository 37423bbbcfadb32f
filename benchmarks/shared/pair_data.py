"""The arrays of the panel of distillation pairs, made of what comes with libraries and Debian."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.load import DataReference, load

Part = tuple[NDArray[Any], NDArray[np.int64]]
FASHION_TEST_ITEMS = 3000
HUNDRED_TRAIN_ITEMS, HUNDRED_TEST_ITEMS = 4000, 2000
NOUNS = Path("/usr/share/wordnet/data.noun")
KINDS = {4: "act", 5: "animal", 6: "artifact", 13: "food", 15: "location", 18: "person"} | {
    20: "plant",
    26: "state",
}
"""Of WordNet's lexicographers' files, by number, lexnames(5WN)."""
SERIES_STEPS = 29
TEXT_TOKENS, VOCABULARY = 20, 8000
TEXT_TRAIN_ITEMS, TEXT_TEST_ITEMS = 300, 200
"""Of each kind."""
LABELLED = {"fashion": 2000, "few": 500, "fashion8000": 8000, "fashion12000": 12000}


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
        "text": _text,
        "hundred": _hundred,
    }
    return made[name]() if name in made else _fashion(LABELLED[name])


def _fashion(items: int) -> Mapping[str, Part]:
    whole = load(DataReference(name="fashion_mnist"))
    test = 2000 if items == LABELLED["fashion8000"] else FASHION_TEST_ITEMS
    return {
        "train": (np.array(whole.train.x[:items]), np.array(whole.train.y[:items])),
        "test": (np.array(whole.test.x[:test]), np.array(whole.test.y[:test])),
    }


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


def _text() -> Mapping[str, Part]:
    """Return definitions of nouns as word ids, 0 for padding and 1 for rare words."""
    kinds: dict[int, list[str]] = {number: [] for number in KINDS}
    for line in NOUNS.read_text(encoding="utf-8").splitlines():
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
