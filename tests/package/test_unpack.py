"""Zips that would write elsewhere, too much, or something else than files."""

from __future__ import annotations

import stat
import struct
import zipfile

import pytest

from kdeploy.errors import ArtifactCorrupt
from kdeploy.package import unpack as module
from kdeploy.package.unpack import unpack


def zipped(path, *entries, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def with_mode(name, mode):
    entry = zipfile.ZipInfo(name)
    entry.create_system = 3
    entry.external_attr = mode << 16
    return entry


@pytest.fixture
def target(tmp_path):
    folder = tmp_path / "inner" / "target"
    folder.mkdir(parents=True)
    return folder


def refused(path, target, match):
    outside = sorted(p for p in target.parent.parent.rglob("*"))
    with pytest.raises(ArtifactCorrupt, match=match) as error:
        unpack(path, target)
    assert error.value.hint
    assert sorted(p for p in target.parent.parent.rglob("*")) == outside


def test_files_and_folders_come_out_as_they_went_in(tmp_path, target):
    unpack(zipped(tmp_path / "a.zip", ("d/", b""), ("d/x", b"one"), ("y", b"two" * 9999)), target)
    assert (target / "d/x").read_bytes() == b"one"
    assert (target / "y").read_bytes() == b"two" * 9999


@pytest.mark.parametrize(
    "name",
    [
        *("../evil", "a/../../evil", "..", "/etc/evil", "//evil", "a//b", "./a", "a/./b", ""),
        *("..\\evil", "a\\b", "C:/evil", "c:evil", "nul\0byte", "line\nbreak", "a/" * 150 + "b"),
    ],
)
def test_a_name_that_could_leave_the_folder_is_refused(tmp_path, target, name):
    entry = zipfile.ZipInfo("x")
    entry.filename = entry.orig_filename = name
    refused(zipped(tmp_path / "a.zip", ("good", b"1"), (entry, b"2")), target, "name")


@pytest.mark.parametrize(
    "mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFDIR]
)
def test_a_link_or_a_device_is_refused(tmp_path, target, mode):
    entry = with_mode("evil", mode | 0o777)
    refused(zipped(tmp_path / "a.zip", (entry, b"/etc/passwd")), target, "link or a device")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("other", ["model.onnx", "Model.ONNX", "model.onnx/"])
def test_a_name_that_comes_twice_is_refused(tmp_path, target, other):
    path = zipped(tmp_path / "a.zip", ("model.onnx", b"1"), (other, b""))
    refused(path, target, "comes twice")


def test_a_file_inside_a_file_is_refused(tmp_path, target):
    refused(zipped(tmp_path / "a.zip", ("a", b"1"), ("A/b", b"2")), target, "inside a file")


def test_more_bytes_than_a_bundle_has_are_refused_before_the_first(tmp_path, target, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 10_000)
    path = zipped(tmp_path / "a.zip", ("small", b"1"), ("zeros", bytes(10_001)))
    assert path.stat().st_size < 1000
    refused(path, target, "10002 bytes")


def test_a_declared_size_beyond_the_limit_is_refused(tmp_path, target):
    path = zipped(tmp_path / "a.zip", ("bomb", bytes(1000)))
    patch_declared_size(path, 3 * 2**30)
    refused(path, target, "more than 2147483648")


def test_a_size_that_lies_is_refused(tmp_path, target):
    path = zipped(tmp_path / "a.zip", ("bomb", bytes(10_000_000)))
    patch_declared_size(path, 10)
    with pytest.raises(ArtifactCorrupt):
        unpack(path, target)
    assert sum(p.stat().st_size for p in target.rglob("*")) <= 10


def patch_declared_size(path, size):
    content = bytearray(path.read_bytes())
    directory = content.rindex(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = struct.pack("<I", size)
    path.write_bytes(bytes(content))


def test_too_many_entries_are_refused(tmp_path, target, monkeypatch):
    monkeypatch.setattr(module, "MAX_FILES", 3)
    entries = [(f"f{i}", b"") for i in range(4)]
    refused(zipped(tmp_path / "a.zip", *entries), target, "4 entries")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_unusual_packing_is_refused(tmp_path, target, method):
    refused(zipped(tmp_path / "a.zip", ("x", b"1"), method=method), target, "unusual")


def test_an_encrypted_entry_is_refused(tmp_path, target):
    path = zipped(tmp_path / "a.zip", ("x", b"1"))
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(content))
    refused(path, target, "encrypted")


def test_a_changed_byte_in_the_packed_data_is_refused(tmp_path, target):
    path = zipped(tmp_path / "a.zip", ("x", bytes(range(256)) * 40))
    content = bytearray(path.read_bytes())
    content[60] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(ArtifactCorrupt, match="whole zip"):
        unpack(path, target)


def test_a_zip_of_zeros_is_refused_by_what_it_would_become(tmp_path, target):
    path = zipped(tmp_path / "a.zip", ("model.onnx", bytes(200_000_000)))
    assert path.stat().st_size < 250_000
    refused(path, target, "would unpack to 200000000, more than 50 times")


def test_a_text_of_more_than_a_mebibyte_is_refused_packed(tmp_path, target):
    refused(zipped(tmp_path / "a.zip", ("README.md", b"x" * 2_000_000)), target, "README.md has")


@pytest.mark.parametrize("size", [10**6, 2**32 - 1])
def test_a_directory_of_more_entries_than_files_is_refused_unread(tmp_path, target, size):
    path = zipped(tmp_path / "a.zip", ("x", b"1"))
    content = bytearray(path.read_bytes())
    content[-10:-6] = struct.pack("<I", size)
    path.write_bytes(bytes(content))
    refused(path, target, f"its directory has {size} bytes")


def test_what_ends_as_no_zip_file_is_refused(tmp_path, target):
    (tmp_path / "a.zip").write_bytes(b"PK\x05\x06" + b"\0" * 10)
    refused(tmp_path / "a.zip", target, "its end is not there")
