"""Folders for a while: swept away when their process died, and never another one's."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from kdeploy.registry import ROOT
from kdeploy.system.temporary import PREFIX, locked_folder, sweep, temporary_folder

HOLD = """
import sys, time
from pathlib import Path
from kdeploy.system.temporary import locked_folder
with locked_folder("x-", Path(sys.argv[1])) as folder:
    (folder / "inside").mkdir()
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Return a process that holds a folder in `tmp_path`, and the folder."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_what_a_living_process_holds_stays_and_what_a_killed_one_left_goes(tmp_path, holder):
    process, folder = holder
    sweep("x-", tmp_path)
    assert (folder / "inside").is_dir()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert folder.is_dir()
    sweep("x-", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_leaves_alone_what_only_looks_like_it(tmp_path):
    target = tmp_path / "elsewhere"
    target.mkdir()
    (tmp_path / "x-link").symlink_to(target)
    (tmp_path / "x-file").write_text("mine")
    (tmp_path / "y-1").mkdir()
    sweep("x-", tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere", "x-file", "x-link", "y-1"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_leaves_alone_what_another_user_has(tmp_path):
    theirs = tmp_path / "x-theirs"
    theirs.mkdir()
    os.chown(theirs, 12345, 12345)
    sweep("x-", tmp_path)
    assert theirs.is_dir()


def test_goes_at_the_end_whatever_ends_it(tmp_path):
    with pytest.raises(KeyboardInterrupt), locked_folder("x-", tmp_path):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_has_one_recognisable_prefix(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_folder("int8") as folder:
        assert folder.parent == tmp_path
        assert folder.name.startswith(f"{PREFIX}int8-")


ELSEWHERE = {
    "system/temporary.py": {"mkdtemp"},
    "package/bundles/genai.py": {"TemporaryDirectory"},  # is copied to devices without kdeploy
    "package/runner/http/serve.py": {"TemporaryDirectory"},  # so is this
}


def test_no_other_code_makes_temporary_folders():
    """What is made elsewhere is not swept; files without a name need not be."""
    for path in sorted(ROOT.rglob("*.py")):
        made = {
            ast.unparse(call.func)
            for call in ast.walk(ast.parse(path.read_text()))
            if isinstance(call, ast.Call)
        }
        asked = {name.split(".")[-1] for name in made if name.startswith("tempfile.")}
        allowed = ELSEWHERE.get(path.relative_to(ROOT).as_posix(), set())
        assert asked <= allowed | {"gettempdir", "TemporaryFile"}, path


SWEEP = """
import sys
from pathlib import Path
from kdeploy.system.temporary import sweep
while not Path(sys.argv[1], "enough").exists():
    sweep("x-", Path(sys.argv[1]))
"""


def test_a_folder_is_there_though_others_sweep_all_the_while(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", SWEEP, str(tmp_path)])
    try:
        for number in range(500):
            with locked_folder("x-", tmp_path) as folder:
                (folder / "inside").write_text(str(number))
    finally:
        (tmp_path / "enough").touch()
        assert process.wait(timeout=60) == 0
