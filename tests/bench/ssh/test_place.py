from __future__ import annotations

import os
import time

import pytest

from kdeploy.bench.ssh.device import workdir as place_module
from kdeploy.bench.ssh.device.commands import Refused, follow, put, start
from kdeploy.bench.ssh.device.workdir import LEASE_SECONDS, Place


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(place_module, "START_SECONDS", 0.1)
    return _place(tmp_path / "root" / "mine")


def _place(folder):
    folder.mkdir(parents=True)
    found = Place(folder)
    found.renew()
    found.begin()
    return found


def _forget(place):
    long_ago = time.time() - LEASE_SECONDS - 1
    os.utime(place.folder / "lease", (long_ago, long_ago))


def test_what_nobody_waits_for_is_removed_at_the_next_start(place):
    fresh, old = (_place(place.folder.parent / name) for name in ("fresh", "old"))
    _forget(old)
    place.sweep()
    assert fresh.folder.exists()
    assert not old.folder.exists()


def test_a_job_that_runs_is_not_swept(place):
    other = _place(place.folder.parent / "other")
    _forget(other)
    with other.holding_the_device():
        place.sweep()
        assert other.folder.exists()


def test_one_measures_at_a_time(place):
    other = _place(place.folder.parent / "other")
    with other.holding_the_device():
        assert other.is_running()
        assert not place.is_running()
        with pytest.raises(Refused, match="job other"):
            start(place)
        with pytest.raises(BlockingIOError), place.holding_the_device():
            pytest.fail("two measure at once")
    assert place.holder() is None


def test_a_job_without_its_folder_is_not_wanted(place):
    assert place.is_wanted()
    _forget(place)
    assert not place.is_wanted()
    place.remove()
    assert not place.is_wanted()
    assert not place.folder.parent.exists()


def test_a_process_that_died_is_noticed_with_its_last_words(place):
    (place.folder / "log.txt").write_text("Traceback\nMemoryError\n\n")
    with pytest.raises(Refused, match="MemoryError") as told:
        follow(place)
    assert told.value.cause == "died"


def test_a_file_goes_on_where_it_was_cut_off(place, monkeypatch):
    import hashlib
    import io
    from types import SimpleNamespace

    content = bytes(range(256)) * 40
    name = f"file-{hashlib.sha256(content).hexdigest()}.onnx"
    told = []
    for offset, piece in ((0, content[:5000]), (4000, content[4000:])):
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(piece)))
        told.append(put(place, name, str(offset))["is_whole"])
    assert told == [False, True]
    assert (place.folder / name).read_bytes() == content
