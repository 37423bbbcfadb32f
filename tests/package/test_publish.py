"""Whole or not at all: kills, full disks, foreign folders, two at once."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest

from kdeploy.errors import InputError, Unavailable
from kdeploy.package import publish
from kdeploy.package.publish import published

MANIFEST = '{"kind": "bundle", "schema_version": 1}'


def write(folder, text="new"):
    (folder / "manifest.json").write_text(MANIFEST)
    (folder / "inner").mkdir()
    (folder / "inner" / "file").write_text(text)


def make(out, text="new"):
    with published(out) as folder:
        write(folder, text)


def test_a_folder_appears_with_all_that_was_written(tmp_path):
    make(tmp_path / "a" / "b" / "bundle")
    assert (tmp_path / "a/b/bundle/inner/file").read_text() == "new"
    assert [p.name for p in (tmp_path / "a/b").iterdir()] == ["bundle"]


@pytest.mark.parametrize("swaps", [True, False])
def test_a_bundle_is_replaced_with_and_without_the_system_call(tmp_path, monkeypatch, swaps):
    if not swaps:
        monkeypatch.setattr(publish, "_exchange", lambda *_: False)
    make(tmp_path / "bundle", "old")
    make(tmp_path / "bundle", "new")
    assert (tmp_path / "bundle/inner/file").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_two_folders_are_swapped_in_one_step(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert publish._exchange(tmp_path / "one", tmp_path / "other")
    assert (tmp_path / "one/other").exists()
    assert (tmp_path / "other/one").exists()


@pytest.mark.parametrize("name", ["bundle", "bundle.zip"])
def test_an_error_leaves_the_old_bundle_and_nothing_else(tmp_path, name):
    out = tmp_path / name
    make(out, "old")
    before = out.stat().st_ino
    with pytest.raises(ZeroDivisionError), published(out) as folder:
        write(folder, str(1 / 0))
    assert out.stat().st_ino == before
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    with pytest.raises(Unavailable, match="full") as error, published(tmp_path / "bundle"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert error.value.hint
    assert list(tmp_path.iterdir()) == []


def folder_with_a_file(path):
    path.mkdir()
    (path / "thesis.txt").write_text("precious")


def artefact(path):
    path.mkdir()
    (path / "manifest.json").write_text('{"kind": "onnx", "id": "abc"}')


def broken_manifest(path):
    path.mkdir()
    (path / "manifest.json").write_text("{")


def file(path):
    path.write_text("precious")


def link_to_a_bundle(path):
    make(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


@pytest.mark.parametrize("name", ["out", "out.zip"])
@pytest.mark.parametrize(
    "foreign", [folder_with_a_file, artefact, broken_manifest, file, link_to_a_bundle]
)
def test_what_is_not_a_bundle_is_left_as_it_is(tmp_path, foreign, name):
    foreign(tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="not a bundle") as error:
        make(tmp_path / name)
    assert error.value.hint
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "bundle").mkdir()
    make(tmp_path / "bundle")
    assert (tmp_path / "bundle/inner/file").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from kdeploy.package import publish
at = {"filling": None, "zipping": "write_zip", "flushing": "_flush", "placing": "_put"}[sys.argv[2]]
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
if at: setattr(publish, at, die)
with publish.published(Path(sys.argv[1])) as folder:
    (folder / "manifest.json").write_text('{"kind": "bundle"}')
    if at is None: die()
"""


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize(
    ("name", "moment"),
    [
        *(("bundle", "filling"), ("bundle", "flushing"), ("bundle", "placing")),
        *(("bundle.zip", "zipping"), ("bundle.zip", "placing")),
    ],
)
def test_a_kill_leaves_the_old_bundle_or_none_and_the_next_run_cleans_up(
    tmp_path, name, moment, old
):
    out = tmp_path / name
    if old:
        make(out, "old")
        before = out.stat().st_ino
    done = subprocess.run([sys.executable, "-c", KILLED, str(out), moment], check=False)
    assert done.returncode == -signal.SIGKILL
    assert out.exists() == old
    assert not old or out.stat().st_ino == before
    assert all(p == out or p.name.startswith(f".{name}.partial-") for p in tmp_path.iterdir())
    make(out)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_packaging_to_the_same_place_at_once_disturbs_neither(tmp_path):
    with published(tmp_path / "bundle") as first:
        write(first, "first")
        make(tmp_path / "bundle", "second")
        assert (tmp_path / "bundle/inner/file").read_text() == "second"
    assert (tmp_path / "bundle/inner/file").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_others_may_read_the_bundle(tmp_path):
    make(tmp_path / "bundle")
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "bundle").stat().st_mode & 0o777 == 0o777 & ~umask
