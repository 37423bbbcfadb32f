from __future__ import annotations

import struct

import numpy as np
import pytest

from kdeploy.data.datasets import fashion_mnist as module
from kdeploy.data.datasets.fashion_mnist import DEBIAN, SHA256, fashion_mnist
from kdeploy.data.load import DataReference, load
from kdeploy.data.statistics import channel_statistics
from kdeploy.errors import DataError, FileMissing, Unavailable

needs_debian = pytest.mark.skipif(
    not DEBIAN.is_dir(), reason="the Debian package dataset-fashion-mnist is not installed"
)


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """Let neither the environment, the Debian package nor the user's cache be found."""
    monkeypatch.delenv("KDEPLOY_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(module, "DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(module, "MIRRORS", ())
    return tmp_path


def written(folder, *, seed=0):
    """Write a small set with the four names, of 20 training and 10 test images."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for name in SHA256:
        count = 20 if name.startswith("train") else 10
        if "images" in name:
            header = bytes([0, 0, 8, 3]) + struct.pack(">III", count, 28, 28)
            values = rng.integers(0, 256, count * 784, dtype=np.uint8)
        else:
            header = bytes([0, 0, 8, 1]) + struct.pack(">I", count)
            values = np.arange(count, dtype=np.uint8) % 10
        (folder / name).write_bytes(header + values.tobytes())
    return folder


def test_reads_the_folder_that_is_named(nowhere):
    parts = fashion_mnist(folder=written(nowhere / "own"))
    assert parts.train.x.shape == (20, 1, 28, 28)
    assert parts.test.y.tolist() == list(range(10))


@pytest.mark.parametrize("place", ["data", "data/fashion-mnist"])
def test_looks_where_the_environment_points(nowhere, monkeypatch, place):
    written(nowhere / place)
    monkeypatch.setenv("KDEPLOY_DATA", str(nowhere / "data"))
    assert str(nowhere / place) in fashion_mnist().train.origin


@pytest.mark.parametrize("place", ["debian", "cache/kdeploy/fashion-mnist"])
def test_looks_in_the_debian_package_and_in_the_cache(nowhere, place):
    written(nowhere / place)
    assert str(nowhere / place) in fashion_mnist().train.origin


def test_the_environment_goes_before_the_debian_package(nowhere, monkeypatch):
    written(nowhere / "debian")
    monkeypatch.setenv("KDEPLOY_DATA", str(written(nowhere / "data")))
    assert str(nowhere / "data") in fashion_mnist().train.origin


def test_a_named_folder_that_lacks_a_file_is_not_replaced_by_another(nowhere):
    written(nowhere / "debian")
    (written(nowhere / "own") / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileMissing, match=r"own lacks t10k-labels-idx1-ubyte\.gz"):
        fashion_mnist(folder=nowhere / "own")


def test_offline_the_error_lists_the_four_ways(nowhere, monkeypatch):
    # A port that nothing listens on: the connection is refused at once.
    monkeypatch.setattr(module, "MIRRORS", ("http://127.0.0.1:9/", "http://127.0.0.1:9/mirror/"))
    with pytest.raises(Unavailable, match="ConnectionError") as caught:
        fashion_mnist()
    hint = caught.value.hint
    for way in ("--data-dir", "KDEPLOY_DATA", "apt install dataset-fashion-mnist", "cache"):
        assert way in hint
    assert caught.value.exit_code == 3


def test_downloads_to_the_cache_and_checks_the_sums(nowhere, monkeypatch, serve):
    own = written(nowhere / "own")
    for file in own.iterdir():
        file.rename(f"{file}.gz")
    monkeypatch.setattr(module, "MIRRORS", ("http://127.0.0.1:9/", serve(own)))
    with pytest.raises(Unavailable, match="ValueError"):  # not the sums that are known
        fashion_mnist()
    assert not list((nowhere / "cache").rglob("*.gz"))


def test_takes_a_download_whose_sums_hold(nowhere, monkeypatch, serve):
    import gzip
    import hashlib

    own = written(nowhere / "own")
    sums = {}
    for name in SHA256:
        packed = gzip.compress((own / name).read_bytes())
        (own / f"{name}.gz").write_bytes(packed)
        sums[name] = hashlib.sha256(packed).hexdigest()
    monkeypatch.setattr(module, "SHA256", sums)
    monkeypatch.setattr(module, "MIRRORS", (serve(own),))
    assert len(fashion_mnist().train) == 20
    monkeypatch.setattr(module, "MIRRORS", ())
    assert len(fashion_mnist().train) == 20  # from the cache, without a connection


def test_a_truncated_file_is_named(nowhere):
    images = written(nowhere / "own") / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:5000])
    with pytest.raises(DataError, match="train-images-idx3-ubyte should hold 15680 values"):
        fashion_mnist(folder=nowhere / "own")


def test_fewer_labels_than_images_are_refused(nowhere):
    own = written(nowhere / "own")
    (own / "train-labels-idx1-ubyte").write_bytes(
        bytes([0, 0, 8, 1]) + struct.pack(">I", 3) + bytes(3)
    )
    with pytest.raises(DataError, match="20 items but 3 labels"):
        load(DataReference(name="fashion_mnist", parameters={"folder": str(own)}))


@needs_debian
def test_the_real_set_is_whole_and_its_statistics_are_those_recorded():
    parts = fashion_mnist(folder=DEBIAN)
    assert np.bincount(parts.train.y).tolist() == [6000] * 10
    assert np.bincount(parts.test.y).tolist() == [1000] * 10
    recorded = parts.preprocessing
    assert channel_statistics(parts.train.x) == (recorded.mean, recorded.std)


@needs_debian
def test_the_debian_files_hold_what_the_download_would():
    import hashlib

    # Upstream's gzip header has a name and a time where Debian's has none; the rest is one stream.
    for name, packed_at in (
        ("t10k-images-idx3-ubyte", 0x59A7E9F3),
        ("t10k-labels-idx1-ubyte", 0x59A7E9F3),
    ):
        stored = (DEBIAN / f"{name}.gz").read_bytes()
        header = b"\x1f\x8b\x08\x08" + packed_at.to_bytes(4, "little") + stored[8:10]
        upstream = header + name.encode() + b"\0" + stored[10:]
        assert hashlib.sha256(upstream).hexdigest() == SHA256[name]
