from __future__ import annotations

import os
from threading import Event

import pytest

from kdeploy.bench.ssh.hosts import Host, parse_host
from kdeploy.bench.ssh.link import Link
from kdeploy.bench.ssh.payload_zip import boot, runner
from kdeploy.bench.ssh.ssh_errors import Unreachable
from kdeploy.errors import Unavailable


def _look(host):
    with Link(host, stopping=Event()) as link:
        link.boot("job", source=boot(), runner=runner())
        try:
            return link.ask("look")
        finally:
            link.stop()


def _refused(host):
    with pytest.raises(Unavailable) as told:
        _look(host)
    return told.value


def test_a_machine_that_nobody_knows(ssh):
    assert "no machine of that name" in _refused(Host(name="nobody.invalid")).message


def test_a_device_that_is_down_may_come_back(ssh, tmp_path, monkeypatch):
    (tmp_path / "config").write_text("Host down\n  HostName 127.0.0.1\n  Port 1\n")
    monkeypatch.setenv("KDEPLOY_SSH_COMMAND", f"ssh -F {tmp_path / 'config'}")
    error = _refused(Host(name="down"))
    assert isinstance(error, Unreachable)
    assert "Connection refused" in error.message


def test_a_host_key_that_is_not_known_is_not_taken(ssh, monkeypatch):
    command = os.environ["KDEPLOY_SSH_COMMAND"]
    monkeypatch.setenv("KDEPLOY_SSH_COMMAND", f"{command} -oUserKnownHostsFile=/dev/null")
    error = _refused(parse_host(ssh[0].option))
    assert "host key is not known" in error.message
    assert not isinstance(error, Unreachable)  # trying again would not help
    assert "ssh raspberrypi" in error.hint


def test_a_user_without_a_key(ssh, monkeypatch):
    command = os.environ["KDEPLOY_SSH_COMMAND"]
    monkeypatch.setenv("KDEPLOY_SSH_COMMAND", f"{command} -oPubkeyAuthentication=no")
    error = _refused(parse_host(ssh[0].option))
    assert "permission denied" in error.message
    assert "ssh-copy-id raspberrypi" in error.hint


def test_a_device_without_that_python(ssh):
    error = _refused(Host(name="raspberrypi", python="python-nowhere"))
    assert "no program `python-nowhere`" in error.message


def test_a_device_without_numpy_is_told_how_to_get_it(ssh):
    blocker = ssh[0].folder / "site" / "sitecustomize.py"
    text = blocker.read_text()
    blocker.write_text(text.replace("'torch'", "'numpy', 'torch'"))
    try:
        error = _refused(parse_host(ssh[0].option))
    finally:
        blocker.write_text(text)
    assert "cannot import numpy" in error.message
    assert "-m pip install numpy onnxruntime" in error.hint
    assert ssh[0].leftovers() == []


def test_a_folder_that_cannot_be_made(ssh, tmp_path):
    (tmp_path / "file").touch()
    host = Host(name="raspberrypi", python=str(ssh[0].python), folder=str(tmp_path / "file"))
    assert "temporary folder cannot be used" in _refused(host).message


def test_ssh_itself_is_missing(monkeypatch):
    monkeypatch.setenv("KDEPLOY_SSH_COMMAND", "/nowhere/ssh")
    assert "openssh-client" in _refused(Host(name="raspberrypi")).hint


def test_what_a_login_shell_prints_is_no_answer(ssh):
    python = ssh[0].folder / "talkative"
    python.write_text(f"#!/bin/sh\necho welcome\n. {ssh[0].python}\n")
    python.chmod(0o755)
    host = Host(name="raspberrypi", python=str(python), folder=str(ssh[0].folder / "temporary"))
    with Link(host, stopping=Event()) as link:
        link.boot("job", source=boot(), runner=runner())
        assert link.program.endswith("/job/kdeploy.zip")
        link.stop()
    assert ssh[0].leftovers() == []
