"""systemd itself finds nothing wrong with the unit, and its memory follows the budgets."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys

import pytest

from kdeploy.errors import RecipeError


def settings(folder):
    found = configparser.ConfigParser(interpolation=None)
    found.optionxform = str
    found.read(folder / "tiny.service")
    return found


def test_starts_the_server_of_the_bundle_where_it_will_lie(emitted):
    given = {"install_folder": "/srv/tiny", "python": "/usr/bin/python3.12", "port": 9000}
    unit = settings(emitted("systemd", given))["Service"]
    command = "/usr/bin/python3.12 -I -B /srv/tiny/deploy/http_server/serve.py"
    assert unit["ExecStart"] == f"{command} --host 127.0.0.1 --port 9000"
    assert unit["DynamicUser"] == unit["NoNewPrivileges"] == "yes"
    assert unit["CapabilityBoundingSet"] == ""


@pytest.mark.parametrize(
    ("budgets", "allowed"), [((), "896M"), (("peak_memory: <= 1GB",), "1907M")]
)
def test_the_budget_bounds_its_memory(emitted, budgets, allowed):
    assert settings(emitted("systemd", budgets=budgets))["Service"]["MemoryMax"] == allowed


def test_brings_the_server_that_it_starts(emitted):
    assert (emitted("systemd").parent / "http_server" / "serve.py").is_file()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="apt-get install systemd")
def test_systemd_finds_nothing_wrong(emitted, tmp_path):
    folder = emitted("systemd", {"install_folder": str(tmp_path), "python": sys.executable})
    command = ["systemd-analyze", "verify", "--man=no", folder / "tiny.service"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    own = [line for line in done.stderr.splitlines() if "tiny.service" in line]
    assert (done.returncode, own) == (0, []), done.stderr


@pytest.mark.parametrize(
    "given",
    [
        {"install_folder": "/opt/x\nUser=root"},
        {"python": "python3"},
        {"host": "0.0.0.0 --bundle /"},
        {"port": 0},
    ],
)
def test_refuses_what_would_be_another_line_of_the_unit(emitted, given):
    (key,) = given
    with pytest.raises(RecipeError, match=rf"emit\[0\]\.systemd\.{key}"):
        emitted("systemd", given)
