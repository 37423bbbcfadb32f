"""SHA256SUMS, written and read."""

from __future__ import annotations

import hashlib

import pytest

from kdeploy.errors import ArtifactCorrupt
from kdeploy.package.checksums import check_sums, digest, write_sums
from kdeploy.package.runner.python import reading


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b/one file").write_bytes(b"1")
    (tmp_path / "a").write_bytes(b"2")
    write_sums(tmp_path)
    return tmp_path


def test_the_lines_are_those_of_sha256sum_sorted_by_name(folder):
    one, two = hashlib.sha256(b"1").hexdigest(), hashlib.sha256(b"2").hexdigest()
    assert (folder / "SHA256SUMS").read_text() == f"{two}  a\n{one}  b/one file\n"
    assert check_sums(folder) == {"a": two, "b/one file": one}


def test_writing_again_changes_nothing(folder):
    before = digest(folder)
    write_sums(folder)
    assert digest(folder) == before


@pytest.mark.parametrize(
    "line",
    [
        "no checksum  x",
        f"{'0' * 64} x",
        f"{'0' * 64} *a",
        f"{'G' * 64}  a",
        f"\\{'0' * 64}  a",
        f"{'0' * 64}  a",
        "",
    ],
)
def test_a_line_that_is_no_checksum_or_a_name_again_is_refused(folder, line):
    with (folder / "SHA256SUMS").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ArtifactCorrupt, match="line 3"):
        check_sums(folder)


def test_a_name_outside_the_folder_is_refused(folder):
    (folder.parent / "outside").write_bytes(b"2")
    with (folder / "SHA256SUMS").open("a") as file:
        file.write(f"{hashlib.sha256(b'2').hexdigest()}  ../outside\n")
    with pytest.raises(ArtifactCorrupt, match="outside is missing"):
        check_sums(folder)


def test_too_many_files_are_refused(folder, monkeypatch):
    monkeypatch.setattr(reading, "MOST_FILES", 2)
    with pytest.raises(ArtifactCorrupt, match="more than 2 files"):
        check_sums(folder)
