"""Tables: files and targets by column, and what is wrong with rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from kdeploy.data.datasets.table import table
from kdeploy.errors import KdeployError


@pytest.fixture
def folder(tmp_path):
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return tmp_path


def read(folder, targets, ending="csv", change=lambda frame: frame, **parameters):
    frame = pd.DataFrame(
        {
            "file": [f"{n}.png" for n in range(4)],
            "kind": ["b", "a", "b", "a"],
            "number": [1, 0, 1, 1],
            "other": [0, 0, 1, 1],
            "metres": [0.5, 1.5, 2.5, 3.5],
        }
    )
    paths = {}
    for part, rows in (("train", slice(0, 3)), ("test", slice(1, 4))):
        paths[part] = folder / f"{part}.{ending}"
        own = frame[rows].reset_index(drop=True)
        own = change(own) if part == "train" else own
        if ending == "parquet":
            own.to_parquet(paths[part])
        else:
            own.to_csv(paths[part], index=False, sep="\t" if ending == "tsv" else ",")
    return table(**{**paths, "targets": targets, "size": (4, 4), **parameters})


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_words_are_classes_in_the_order_of_the_alphabet(folder, ending):
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    parts = read(folder, "kind", ending)
    assert parts.preprocessing.classes == ("a", "b")
    assert parts.train.y.tolist() == [1, 0, 1]
    assert parts.test.y.tolist() == [0, 1, 0]
    first = np.asarray(Image.open(folder / "0.png")).transpose(2, 0, 1)
    np.testing.assert_array_equal(parts.train.x[0], first)


def test_whole_numbers_of_one_column_are_classes(folder):
    assert read(folder, "number").train.y.tolist() == [1, 0, 1]


def test_other_columns_are_numbers(folder):
    assert read(folder, ["metres"]).train.y.tolist() == [[0.5], [1.5], [2.5]]
    several = read(folder, ["number", "other"]).train.y
    assert several.tolist() == [[1, 0], [0, 0], [1, 1]]
    assert several.dtype == np.int64
    assert read(folder, ["number", "metres"]).train.y.dtype == np.float32


def put(column, value):
    def change(frame):
        frame = frame.astype({column: object})
        frame.loc[1, column] = value
        return frame

    return change


@pytest.mark.parametrize(
    ("targets", "change", "message", "hint"),
    [
        ("kinds", lambda f: f, "no column `kinds`", "kind"),
        ("kind", put("kind", None), r"train.csv:3: `kind` is empty \(1 such rows\)", "drop"),
        (["metres", "number"], put("metres", "much"), "csv:3: `metres` is `much`", "numbers"),
        ("kind", put("file", None), "train.csv:3: no file is named", "drop"),
        ("kind", put("file", "9.png"), "train.csv names .*9.png, which is not there", "picture"),
        ("kind", lambda f: f[f["kind"] == "b"], "test.csv:2: `kind` is `a`, which no", "class"),
        ("kind", lambda f: f[:0], "train.csv has no rows", "add"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(folder, targets, change, message, hint):
    with pytest.raises(KdeployError, match=message) as caught:
        read(folder, targets, change=change)
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


def test_what_is_no_table_is_refused(folder):
    (folder / "bad.csv").write_bytes(b"\x00\xff\xfe")
    with pytest.raises(KdeployError, match="is no table"):
        read(folder, "kind", train=folder / "bad.csv")
    with pytest.raises(KdeployError, match="there is no file"):
        read(folder, "kind", train=folder / "none.csv")
