"""Devices behind a real ssh server on this machine, for whoever reaches for one.

Each has a home folder of its own and, as docs/devices.md sets it up, a Python in `venv` there.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

# Neither Debian nor others put it where users look for programs.
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
NAMES = ("raspberrypi", "jetson")  # as docs/devices.md calls them
# What a device does not have; a runner that imports one of them fails here as it would there.
NOT_THERE = ("torch", "onnx", "psutil", "pydantic", "pandas", "scipy", "sklearn", "yaml", "rich")
BLOCKER = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {NOT_THERE!r}:
            raise ModuleNotFoundError("No module named " + repr(name) + " on this device")

sys.meta_path.insert(0, Blocker())
"""


@dataclass(slots=True, kw_only=True)
class Device:
    """An sshd of the test's own, and a Python behind it that has numpy and onnxruntime only."""

    name: str
    port: int
    folder: Path
    python: Path
    process: subprocess.Popen | None = None

    def start(self):
        self.process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")])
        for _ in range(200):
            with socket.socket() as trial:
                if trial.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        pytest.fail("sshd does not listen")

    def stop(self):
        if self.process is not None:
            self.cut()
            self.process.terminate()
            self.process.wait()
            self.process = None

    def cut(self):
        """Kill every connection, as a lost network does; what was detached goes on."""
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()

    @property
    def option(self):
        return f"{self.name}:python={self.python},folder={self.folder / 'temporary'}"

    def leftovers(self):
        return sorted(p.name for p in (self.folder / "temporary").glob("*"))

    def is_quiet(self):
        """Wait a moment for processes of a job to end; return whether they did."""
        deadline = time.monotonic() + 5
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        return not self.processes()

    def processes(self):
        place = str(self.folder / "temporary")
        found = psutil.process_iter(["cmdline"])
        return [p for p in found if any(place in c for c in p.info["cmdline"] or ())]


@pytest.fixture(scope="session")
def devices(tmp_path_factory):
    """Two devices, on two ports, and the ssh configuration that reaches them."""
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("there is no sshd here: apt install openssh-server")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd insists
    folder = tmp_path_factory.mktemp("ssh")
    _key(folder / "host"), _key(folder / "user")
    made = [_device(folder, name) for name in NAMES]
    (folder / "config").write_text("".join(_alias(d, folder) for d in made))
    public = (folder / "host.pub").read_text()
    known = "".join(f"[127.0.0.1]:{d.port} {public}" for d in made)
    (folder / "known_hosts").write_text(known)
    for device in made:
        device.start()
    yield made
    for device in made:
        device.stop()


@pytest.fixture
def ssh(devices, monkeypatch):
    """The devices, with kdeploy told how to reach them; afterwards they are as before."""
    config = devices[0].folder.parent / "config"
    monkeypatch.setenv("KDEPLOY_SSH_COMMAND", f"ssh -F {config}")
    yield devices
    for device in devices:
        for process in device.processes():
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended by itself
                process.kill()
        shutil.rmtree(device.folder / "temporary", ignore_errors=True)


def _key(path):
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(command, check=True)


def _device(folder, name):
    own = folder / name
    python = own / "home" / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (own / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\n"
        f"AuthorizedKeysFile {folder / 'user.pub'}\nPidFile none\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nPermitRootLogin prohibit-password\nLogLevel QUIET\n"
        f"ForceCommand {_at_home(own)}\n"
    )
    (own / "site").mkdir()
    (own / "site" / "sitecustomize.py").write_text(BLOCKER)
    python.write_text(f'#!/bin/sh\nPYTHONPATH={own / "site"} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return Device(name=name, port=port, folder=own, python=python)


def _at_home(own):
    """Return what stands before every command: this user's home is not the device's."""
    home, system = own / "home", own / "tmp"  # onnxruntime leaves a file in the latter
    return (
        f"mkdir -p {system} && cd {home} && HOME={home} TMPDIR={system}"
        ' exec sh -c "$SSH_ORIGINAL_COMMAND"'
    )


def _alias(device, folder):
    return (
        f"Host {device.name}\n  HostName 127.0.0.1\n  Port {device.port}\n"
        f"  User {getpass.getuser()}\n  IdentityFile {folder / 'user'}\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {folder / 'known_hosts'}\n  StrictHostKeyChecking yes\n"
    )
