"""The layers that imports are held against: every room has its line, none an exception."""

from __future__ import annotations

import tomllib
from pathlib import Path

import kdeploy

ROOT = Path(kdeploy.__file__).parent
SETTINGS = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["tool"]["importlinter"]


def layers():
    (contract,) = (c for c in SETTINGS["contracts"] if c["type"] == "layers")
    return contract


def test_every_room_stands_on_one_line():
    found = [path.stem for path in ROOT.glob("*.py")]
    found += [path.parent.name for path in ROOT.glob("*/__init__.py")]
    named = [room.strip() for line in layers()["layers"] for room in line.split("|")]
    assert sorted(named) == sorted(set(found) - {"__init__", "__main__"})


def test_no_import_is_an_exception():
    assert layers()["exhaustive"]
    assert layers()["exhaustive_ignores"] == ["__main__"]
    assert [c["id"] for c in SETTINGS["contracts"] if "ignore_imports" in c] == []
