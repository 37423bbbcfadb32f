"""Every hint about data, provoked and read as its reader: what it must and must not say."""

from __future__ import annotations

import numpy as np
import pytest

from kdeploy.data.class_targets import read_classes
from kdeploy.data.datasets import arrays as dataset
from kdeploy.data.idx import read_idx
from kdeploy.data.load import DataReference, load
from kdeploy.data.ts_file import read_ts
from kdeploy.errors import InputError


def arrays(**parameters):
    """Return the parts with their classes read, as loading reads them."""
    return read_classes(dataset.arrays(**parameters), where="data")


N = 24
RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (N, 3, 8, 8), dtype=np.uint8)
Y = np.arange(N) % 3
POINTS = RNG.normal(size=(N, 17, 2)).astype(np.float32)
BOXES = RNG.normal(size=(N, 4)).astype(np.float32)
SEVERAL = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]])[Y]
SHARES = np.full((N, 3), 1 / 3)
TOKENS = RNG.integers(0, 50, (N, 6))

LABELS = {
    "from one": (Y + 1, ["y = y - 1"], ["num_classes", "argmax"]),
    "a gap": (Y * 3, ["np.unique(y, return_inverse=True)", "classes: 7"], ["argmax", "y - 1"]),
    "minus one and one": (np.where(Y > 0, 1, -1), ["(y + 1) // 2"], ["y >= 0"]),
    "minus one for none": (Y - 1, ["y >= 0", "unlabelled"], ["// 2"]),
    "minus a hundred for none": (np.where(Y == 2, -100, Y), ["y >= 0"], ["np.unique", "// 2"]),
    "other negatives": (Y - 7, ["np.unique"], ["y >= 0"]),
    "no numbers": (np.where(Y > 0, np.nan, 1.0), ["np.isfinite(y)"], ["astype"]),
    "a regression target": (
        RNG.normal(size=N),
        ["digitize", "task: regression"],
        ["argmax", "astype('int64')"],
    ),
    "counted quantities": (
        np.arange(N) * 7,
        ["one class an item", "task: regression"],
        ["y - 1", "argmax", "classes:"],
    ),
    "soft labels": (SHARES, ["argmax(1)", "distill"], ["ravel"]),
    "several classes": (SEVERAL, ["one column", "one class", "task: multi_label"], ["argmax"]),
    "boxes": (BOXES, ["one class an item", "task: detection"], ["argmax", "ravel", "astype"]),
    "keypoints": (
        POINTS,
        ["one class an item", "task: keypoint_heatmaps"],
        ["argmax", "ravel", "astype"],
    ),
    "masks": (
        X[:, 0] // 128,
        ["one class an item", "task: segmentation"],
        ["argmax", "ravel", "astype"],
    ),
    "names": (np.array(["cat", "dog", "owl"])[Y], ["return_inverse", "classes: [cat"], ["astype"]),
    "dates": (Y.astype("datetime64[D]"), ["integers 0..K-1"], ["astype"]),
}
ITEMS = {
    "doubles": (X / 255, ["x.astype('float32')"], ["x[:, None]", "255"]),
    "too large": (X * 1e300, ["scale them"], ["astype"]),
    "half": ((X / 255).astype(np.float16), ["x.astype('float32')"], ["x[:, None]"]),
    "foreign byte order": ((X / 255).astype(">f4"), ["x.astype('float32')"], ["x[:, None]"]),
    "flags": (X > 127, ["astype('uint8') * 255"], ["float32"]),
    "small integers": (X.astype(np.int64), ["x.astype('uint8')"], ["x[:, None]", "float32"]),
    "twelve bits": (X.astype(np.uint16) * 16, ["x / 4095"], ["astype('uint8')"]),
    "sixteen bits": (X.astype(np.uint16) * 257, ["x / 65535"], ["astype('uint8')"]),
    "complex": (X + 1j, ["x.real"], ["x[:, None]"]),
    "rows of numbers": (BOXES, ["x[:, None]"], ["astype"]),
    "rows of bytes": (X[:, 0, 0], ["x[:, None]", "int64"], ["float32"]),
    "short token ids": (TOKENS.astype(np.int16), ["x.astype('int64')"], ["255", "float32"]),
    "text": (np.array(["a b", "c d", "e f"])[Y], ["token ids"], ["astype"]),
}


@pytest.fixture
def good(tmp_path):
    np.savez(tmp_path / "good.npz", x=X, y=Y)
    return tmp_path / "good.npz"


@pytest.mark.parametrize(("values", "says", "never"), LABELS.values(), ids=LABELS)
def test_a_hint_about_labels_names_what_was_found(good, values, says, never):
    np.savez(good.parent / "bad.npz", x=X, y=values)
    read(good.parent / "bad.npz", good, says, never)


@pytest.mark.parametrize(("values", "says", "never"), ITEMS.values(), ids=ITEMS)
def test_a_hint_about_items_names_what_was_found(good, values, says, never):
    np.savez(good.parent / "bad.npz", x=values, y=Y)
    read(good.parent / "bad.npz", good, says, never)


def read(bad, good, says, never):
    judge(lambda: arrays(train=bad, test=good), says, never, str(bad))


@pytest.mark.parametrize(
    ("given", "mended"),
    [
        (LABELS["from one"][0], lambda y: y - 1),
        (LABELS["a gap"][0], lambda y: np.unique(y, return_inverse=True)[1]),
        (LABELS["minus one and one"][0], lambda y: (y + 1) // 2),
        (LABELS["other negatives"][0], lambda y: np.unique(y, return_inverse=True)[1]),
        (LABELS["a regression target"][0], lambda y: np.digitize(y, [-0.5, 0.5])),
        (LABELS["several classes"][0], lambda y: y[:, 0]),
    ],
)
def test_what_the_hint_tells_to_do_helps(good, given, mended):
    for name in ("mended", "test"):
        np.savez(good.parent / f"{name}.npz", x=X, y=mended(given))
    parts = arrays(train=good.parent / "mended.npz", test=good.parent / "test.npz")
    assert 2 <= len(parts.preprocessing.classes) <= 3


SERIES = ["@classLabel true a b", "@data"]
LINES = {
    "a regression file": (["@targetLabel true", "@data", "1,2:0.5"], ["classification"], ["damag"]),
    "no series": (SERIES, ["classification"], ["astype"]),
    "an unknown class": ([*SERIES, "1,2:c"], ["damaged"], ["astype"]),
    "several lengths": ([*SERIES, "1,2:a", "1,2,3:b"], ["equally long", "_eq"], ["damaged"]),
    "a word": ([*SERIES, "1,two:a"], ["damaged"], ["equally long"]),
}


@pytest.mark.parametrize(("lines", "says", "never"), LINES.values(), ids=LINES)
def test_a_hint_about_series_names_what_was_found(lines, says, never):
    judge(lambda: read_ts(lines, where="S_TRAIN.ts"), says, never, "S_TRAIN.ts")


BYTES = {
    "another type": (b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", ["damaged"], ["astype"]),
    "cut off": (b"\0\0\x08\x01\0\0\0\x05\x01", ["damaged"], ["astype"]),
    "nothing": (b"", ["damaged"], ["astype"]),
}


@pytest.mark.parametrize(("content", "says", "never"), BYTES.values(), ids=BYTES)
def test_a_hint_about_an_idx_file_names_what_was_found(tmp_path, content, says, never):
    (tmp_path / "labels").write_bytes(content)
    judge(lambda: read_idx(tmp_path / "labels", axes=1), says, never, "labels")


REFERENCES = {
    "the same file twice": ({"test": "good.npz"}, ["out of train"], ["astype"]),
    "no such file": ({"test": "none.npz"}, [".npz or .safetensors"], ["astype"]),
    "a table": ({"test": "table.csv"}, [".npz or .safetensors"], ["astype"]),
    "too many means": ({"mean": [0.1, 0.2]}, ["one a channel: 3"], ["astype"]),
    "no spread": ({"std": [0.0]}, ["above 0"], ["astype"]),
    "another test shape": ({"test": "wide.npz"}, ["(channels, height, width)"], ["astype"]),
    "another test type": ({"test": "float.npz"}, ["one type, on one scale"], ["x[:, None]"]),
    "a class of test alone": ({"test": "more.npz"}, ["to train", "classes`: 4"], ["y - 1"]),
    "test from one": ({"test": "one.npz"}, ["`y = y - 1`"], ["classes`"]),
    "all the same": ({"test": "black.npz"}, ["read and filled"], ["astype", "background"]),
    "a wrong unlabelled part": ({"unlabelled": "float.npz"}, ["one type, on one scale"], ["y ="]),
    "an augmentation of signals": ({"augment": ("jitter",)}, ["leave it out"], ["astype"]),
}


@pytest.mark.parametrize(("changed", "says", "never"), REFERENCES.values(), ids=REFERENCES)
def test_a_hint_about_parts_names_what_was_found(good, changed, says, never):
    folder = good.parent
    (folder / "table.csv").write_text("1,2,3")
    np.savez(folder / "test.npz", x=X, y=Y)
    np.savez(folder / "wide.npz", x=X[..., :6], y=Y)
    np.savez(folder / "float.npz", x=(X / 255).astype(np.float32), y=Y)
    np.savez(folder / "more.npz", x=X, y=np.arange(N) % 4)
    np.savez(folder / "one.npz", x=X, y=Y + 1)
    np.savez(folder / "black.npz", x=X * 0, y=Y)
    own = {key: value for key, value in changed.items() if key != "augment"}
    reference = DataReference(
        name="arrays",
        parameters={"train": "good.npz", "test": "test.npz", **own},
        augment=changed.get("augment", ()),
        folder=folder,
    )
    judge(lambda: load(reference), says, never, "")


def judge(call, says, never, where):
    with pytest.raises(InputError) as caught:
        call()
    assert where in caught.value.message
    assert [word for word in says if word not in caught.value.hint] == []
    assert [word for word in never if word in caught.value.hint] == []
