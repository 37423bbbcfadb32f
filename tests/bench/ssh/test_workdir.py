from __future__ import annotations

import os
import time

import pytest

from kdeploy.bench.ssh.device import workdir as place_module
from kdeploy.bench.ssh.device.commands import Refused, follow, put, start
from kdeploy.bench.ssh.device.workdir import LEASE_SECONDS, Workdir


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    monkeypatch.setattr(place_module, "START_SECONDS", 0.1)
    return _place(tmp_path / "root" / "mine")


def _place(folder):
    folder.mkdir(parents=True)
    found = Workdir(folder)
    found.renew()
    found.begin()
    return found


def _forget(workdir):
    long_ago = time.time() - LEASE_SECONDS - 1
    os.utime(workdir.folder / "lease", (long_ago, long_ago))


def test_what_nobody_waits_for_is_removed_at_the_next_start(workdir):
    fresh, old = (_place(workdir.folder.parent / name) for name in ("fresh", "old"))
    _forget(old)
    workdir.sweep()
    assert fresh.folder.exists()
    assert not old.folder.exists()


def test_a_job_that_runs_is_not_swept(workdir):
    other = _place(workdir.folder.parent / "other")
    _forget(other)
    with other.holding_the_device():
        workdir.sweep()
        assert other.folder.exists()


def test_one_measures_at_a_time(workdir):
    other = _place(workdir.folder.parent / "other")
    with other.holding_the_device():
        assert other.is_running()
        assert not workdir.is_running()
        with pytest.raises(Refused, match="job other"):
            start(workdir)
        with pytest.raises(BlockingIOError), workdir.holding_the_device():
            pytest.fail("two measure at once")
    assert workdir.holder() is None


def test_a_job_without_its_folder_is_not_wanted(workdir):
    assert workdir.is_wanted()
    _forget(workdir)
    assert not workdir.is_wanted()
    workdir.remove()
    assert not workdir.is_wanted()
    assert not workdir.folder.parent.exists()


def test_a_process_that_died_is_noticed_with_its_last_words(workdir):
    (workdir.folder / "log.txt").write_text("Traceback\nMemoryError\n\n")
    with pytest.raises(Refused, match="MemoryError") as told:
        follow(workdir)
    assert told.value.cause == "died"


def test_a_file_goes_on_where_it_was_cut_off(workdir, monkeypatch):
    import hashlib
    import io
    from types import SimpleNamespace

    content = bytes(range(256)) * 40
    name = f"file-{hashlib.sha256(content).hexdigest()}.onnx"
    told = []
    for offset, piece in ((0, content[:5000]), (4000, content[4000:])):
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(piece)))
        told.append(put(workdir, name, str(offset))["is_whole"])
    assert told == [False, True]
    assert (workdir.folder / name).read_bytes() == content
