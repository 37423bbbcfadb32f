"""The record of hints knows every place that gives one, and notes what is raised."""

from __future__ import annotations

import json
import re
import subprocess
import sys

from tests.hints import PACKAGE, UNSEEN, _listed, sites

CHILD = """
import sys
from pathlib import Path
from tests import hints
hints.record(Path(sys.argv[1]))
from kdeploy.errors import KdeployError
from kdeploy.gate import parse_gate
try:
    parse_gate("latency.p50 fast")
except KdeployError:
    pass
"""


def test_there_are_hundreds_of_hints_and_each_has_a_place():
    found = sites()
    assert len(found) > 300
    assert all((PACKAGE / place.split(": ")[0]).is_file() for place in found)


def test_what_is_listed_as_unseen_is_there_and_has_a_reason():
    listed = _listed()
    assert set(listed) <= sites(), f"{UNSEEN.name} lists what is not there any more"
    assert all(listed.values())


def test_an_error_is_noted_with_its_place_message_and_hint(tmp_path):
    log = tmp_path / "seen.jsonl"
    subprocess.run([sys.executable, "-c", CHILD, str(log)], check=True, cwd=UNSEEN.parents[1])
    (line,) = map(json.loads, log.read_text().splitlines())
    assert line["site"].startswith("gate.py: ")
    assert "latency.p50 fast" in line["message"]
    assert line["site"] in sites()


def test_paths_in_commands_to_paste_stand_in_quotes():
    # `rm -r my runs/x` removes two other folders.
    command, quoted = r"(?:rm -r|kdeploy (?:run|show|verify|bench))", r"(?:shlex\.)?quote\("
    bare = re.compile(rf"{command} \{{(?!{quoted})[^}}]*\}}")
    found = [
        f"{path.relative_to(PACKAGE)}: {match[0]}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for match in bare.finditer(path.read_text())
    ]
    assert found == []
