from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from kdeploy.data.datasets import ucr as module
from kdeploy.data.datasets.ucr import ucr
from kdeploy.data.load import DataReference, load
from kdeploy.errors import DataError, FileMissing, MissingDependency, Unavailable, UnknownName

needs_aeon = pytest.mark.skipif(
    importlib.util.find_spec("aeon") is None, reason="aeon, which carries the sets, is not here"
)
TRAIN = "@classLabel true a b\n@data\n" + "1,2,3:4,4,4:a\n5,6,7:4,4,4:b\n" * 4
TEST = "@classLabel true a b\n@data\n1,2,3:4,4,4:b\n9,9,9:4,4,4:a\n"


def written(folder, *, name="Walks", train=TRAIN, test=TEST):
    folder.mkdir(parents=True, exist_ok=True)
    for part, text in (("TRAIN", train), ("TEST", test)):
        (folder / f"{name}_{part}.ts").write_text(text)
    return folder


@pytest.fixture
def aeon(monkeypatch, tmp_path):
    """Let an aeon be found that carries `Walks` and lists `Wafer`, and an empty cache."""
    datasets = tmp_path / "aeon" / "datasets"
    written(datasets / "data" / "Walks")
    (datasets / "tsc_datasets.py").write_text('tsc_zenodo = {"Wafer": 1, "Yoga": 2}\n')
    monkeypatch.setattr(module, "_aeon", lambda: datasets)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path


def test_reads_the_folder_that_is_named(tmp_path):
    parts = ucr(problem="Walks", folder=written(tmp_path / "own"))
    assert parts.train.x.shape == (8, 2, 3)
    assert parts.train.y.tolist() == [0, 1] * 4
    assert parts.test.y.tolist() == [1, 0]
    assert parts.preprocessing.classes == ("a", "b")


def test_each_channel_of_train_is_centred_and_scaled_and_a_constant_one_stays_finite(tmp_path):
    parts = ucr(problem="Walks", folder=written(tmp_path / "own"))
    seen = parts.preprocessing.apply(parts.train.x)
    np.testing.assert_allclose(seen.mean(axis=(0, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(seen.std(axis=(0, 2)), [1, 0], atol=1e-5)


def test_a_folder_that_lacks_a_file_is_an_error(tmp_path):
    (written(tmp_path / "own") / "Walks_TEST.ts").unlink()
    with pytest.raises(FileMissing, match=r"own lacks Walks_TEST\.ts"):
        ucr(problem="Walks", folder=tmp_path / "own")


def test_parts_of_other_classes_are_an_error(tmp_path):
    folder = written(tmp_path / "own", test=TEST.replace("a b", "a b c"))
    with pytest.raises(DataError, match="train has the classes a, b, test the classes a, b, c"):
        ucr(problem="Walks", folder=folder)


def test_finds_what_aeon_carries(aeon):
    assert len(ucr(problem="Walks").train) == 8


def test_an_unknown_set_is_refused_with_the_nearest(aeon):
    with pytest.raises(UnknownName, match="did you mean `Wafer`") as caught:
        ucr(problem="Waver")
    assert "Yoga" not in caught.value.hint


def test_an_aeon_without_the_list_gives_what_it_carries(aeon):
    (aeon / "aeon" / "datasets" / "tsc_datasets.py").write_text("univariate = ['Yoga']\n")
    assert len(ucr(problem="Walks").train) == 8
    with pytest.raises(UnknownName, match="`Walks`"):
        ucr(problem="Yoga")


def test_offline_the_error_says_what_can_be_done(aeon, monkeypatch):
    # A port that nothing listens on: the connection is refused at once.
    monkeypatch.setattr(module, "ARCHIVE", "http://127.0.0.1:9/")
    with pytest.raises(Unavailable, match="ConnectionError") as caught:
        ucr(problem="Wafer")
    for way in ("--data-dir", "Wafer.zip", "Walks"):
        assert way in caught.value.hint


def test_downloads_what_aeon_only_lists_and_keeps_it(aeon, monkeypatch, serve):
    own = written(aeon / "own", name="Wafer")
    with zipfile.ZipFile(own / "Wafer.zip", "w") as archive:
        for file in own.glob("*.ts"):
            archive.write(file, file.name)
    monkeypatch.setattr(module, "ARCHIVE", serve(own))
    assert len(ucr(problem="Wafer").train) == 8
    monkeypatch.setattr(module, "ARCHIVE", "http://127.0.0.1:9/")
    assert len(ucr(problem="Wafer").train) == 8


def test_an_answer_that_is_no_archive_is_not_kept(aeon, monkeypatch, serve):
    own = written(aeon / "own")
    (own / "Wafer.zip").write_text("<html>moved</html>")
    monkeypatch.setattr(module, "ARCHIVE", serve(own))
    with pytest.raises(Unavailable, match="no zip archive"):
        ucr(problem="Wafer")
    assert not list((aeon / "cache").rglob("Wafer.zip"))


def test_without_aeon_the_hint_is_its_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="pip install --no-deps aeon"):
        ucr()


@needs_aeon
def test_the_real_sets_have_the_sizes_that_the_archive_says():
    sizes = {
        "GunPoint": (50, 150, (1, 150)),
        "ItalyPowerDemand": (67, 1029, (1, 24)),
        "JapaneseVowels_eq": (270, 370, (12, 25)),
    }
    for problem, (train, test, shape) in sizes.items():
        parts = ucr(problem=problem)
        assert (len(parts.train), len(parts.test), parts.preprocessing.shape) == (
            train,
            test,
            shape,
        )


@needs_aeon
def test_a_set_of_many_lengths_is_an_error_that_names_another_edition():
    with pytest.raises(DataError, match="have 7 to 26 values") as caught:
        ucr(problem="JapaneseVowels")
    assert "_eq" in caught.value.hint


@needs_aeon
def test_loads_without_aeon_itself_and_its_compiler():
    code = (
        "import sys; from kdeploy.data.load import DataReference, load; "
        "load(DataReference(name='ucr')); "
        "print([m for m in ('torch', 'aeon', 'numba', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@needs_aeon
def test_augmented_signals_load_as_a_recipe_asks_for_them():
    loaded = load(DataReference(name="ucr", augment=("jitter", "time_shift", "mixup")))
    assert loaded.augment == ("jitter", "time_shift", "mixup")
