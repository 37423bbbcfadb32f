"""A hundred mutants of all kinds; `make fuzz` tries thousands, with another seed each time."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from kdeploy.errors import ModelError
from tests.fuzz.harness import tried
from tests.package.runner.cpp import built


def test_a_hundred_mutants_are_refused_in_words_or_change_nothing(tmp_path):
    seed = os.environ.get("FUZZ_SEED", "0")
    command = [sys.executable, "-m", "tests.fuzz", "--mutants", "100", "--seed", seed]
    command += ["--keep", str(tmp_path / "kept")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) ", done.stdout, re.MULTILINE)
    expected = {"bundles": 30, "onnx": 30, "store": 15, "recipes": 15, "runs": 10}
    if not built.missing():
        expected["cpp"] = 10
    assert {kind: int(count) for kind, count, _ in rows} == expected
    assert sum(int(refused) for *_, refused in rows) > 50


class Document:
    """Something that must be refused."""

    must_be_refused = True


def refuse(_):
    raise ModelError("no", hint="yes")


def crash(_):
    raise KeyError("x")


def abort(_):
    os.abort()


def wait(_):
    import time

    time.sleep(60)


def fill(_):
    bytearray(b"x") * 1_200_000_000


@pytest.mark.parametrize(
    ("read", "document", "outcome"),
    [
        (refuse, Document(), "refused"),
        (len, "abc", "taken"),
        (id, Document(), "accepted change"),
        (crash, "", "traceback"),
        (abort, "", "traceback"),
        (wait, "", "hang"),
        (fill, "", "memory"),
    ],
)
def test_each_fault_is_counted_and_kept(monkeypatch, tmp_path, read, document, outcome):
    monkeypatch.setattr("tests.fuzz.harness.SECONDS", 1.0 if read is wait else 30.0)
    tally = tried("kind", iter([("name", document)]), read, keep=tmp_path / "kept")
    assert [o.outcome for o in tally.outcomes] == [outcome]
    assert (tmp_path / "kept" / "kind-1.pickle").is_file() == bool(tally.faults)
    assert bool(tally.faults) == (outcome not in ("refused", "taken"))


def test_the_memory_of_the_process_that_tries_is_not_the_mutants(monkeypatch):
    monkeypatch.setattr("tests.fuzz.harness.MOST_BYTES", 100_000_000)
    ours = bytearray(b"x") * 200_000_000
    tally = tried("kind", iter([("name", "abc"), ("name", "")]), lambda said: said or fill(said))
    assert [o.outcome for o in tally.outcomes] == ["taken", "memory"]
    assert len(ours) > 100_000_000
