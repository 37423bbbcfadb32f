"""What a bundle pins: versions and digests that pip itself accepts, and what it says without."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

from kdeploy.errors import Unavailable
from kdeploy.package import package_index, requirements
from kdeploy.package.requirements import pins_of, table

CONSTRAINTS = dict(
    line.split("==")
    for line in (Path(__file__).parents[2] / "constraints.txt").read_text().split()
    if "==" in line
)
PINS = pins_of(["numpy", "onnxruntime"])
as_constrained = pytest.mark.skipif(
    any(CONSTRAINTS.get(name) != version for name, version in (p.split("==") for p in PINS)),
    reason="other versions are installed than those of constraints.txt",
)


def test_the_table_knows_what_the_runners_need_of_onnxruntime():
    wanted = {f"{name}=={CONSTRAINTS[name]}" for name, _ in (pin.split("==") for pin in PINS)}
    assert wanted <= set(table()), "make digests"
    for pin, digests in table().items():
        assert digests, pin
        assert all(len(d) == 64 and set(d) <= set("0123456789abcdef") for d in digests), pin


def test_all_that_is_needed_is_pinned_as_it_is_installed():
    pins = dict(pin.split("==") for pin in pins_of(["onnxruntime"]))
    assert {"onnxruntime", "numpy", "protobuf"} <= set(pins)
    assert all(importlib.metadata.version(name) == version for name, version in pins.items())


@as_constrained
def test_a_bundle_has_it_and_pip_reads_every_digest(pristine):
    text = (pristine / "requirements.txt").read_text()
    assert f"numpy=={importlib.metadata.version('numpy')} \\\n    --hash=sha256:" in text
    program = (
        "from pip._internal.req.req_file import parse_requirements as parse\n"
        "from pip._internal.network.session import PipSession\n"
        "import json, sys\n"
        "found = parse(sys.argv[1], session=PipSession())\n"
        "print(json.dumps({one.requirement.strip(): one.options for one in found}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(pristine / "requirements.txt")],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert sorted(found) == PINS
    assert {pin: sorted(found[pin]["hashes"]["sha256"]) for pin in PINS} == {
        pin: sorted(table()[pin]) for pin in PINS
    }


@as_constrained
def test_without_a_digest_it_pins_versions_and_says_so(monkeypatch):
    known = {pin: digests for pin, digests in table().items() if "protobuf" not in pin}
    monkeypatch.setattr(requirements, "table", lambda: known)
    text = requirements.requirements(["onnxruntime"])
    assert "--hash" not in text
    assert "knows none of protobuf==" in text
    assert "--ask-index" in text
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert [line.partition("==")[0] for line in lines] == ["numpy", "onnxruntime"]


@as_constrained
def test_the_index_is_asked_for_what_is_missing_alone(monkeypatch):
    asked = []

    def digests_of(pins):
        asked.extend(pins)
        return {pin: ["0" * 64] for pin in pins}

    known = {pin: digests for pin, digests in table().items() if "protobuf" not in pin}
    monkeypatch.setattr(requirements, "table", lambda: known)
    monkeypatch.setattr(requirements, "digests_of", digests_of)
    assert f"sha256:{'0' * 64}" in requirements.requirements(["onnxruntime"], asks_index=True)
    assert [pin.partition("==")[0] for pin in asked] == ["protobuf"]


def test_an_index_that_does_not_answer_is_one_clear_error(monkeypatch):
    monkeypatch.setattr(package_index, "_asked", lambda *_: "ERROR: No matching distribution")
    with pytest.raises(Unavailable, match=r"tells no digests of numpy==1.0: ERROR") as caught:
        package_index.digests_of(["numpy==1.0"])
    assert "--ask-index" in caught.value.hint
