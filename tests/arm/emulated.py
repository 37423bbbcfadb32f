"""A Python for 64-bit ARM on another processor: Debian 13's, under its qemu-user; for correctness.

    python -m tests.arm.emulated FOLDER

Fetches once, into FOLDER and nowhere else: qemu-user and Python of Debian 13 by an apt of its own
(packages are checked by Debian's key), numpy, onnxruntime and ai-edge-litert by pip. FOLDER/python3
is then a program like any other Python; what it starts by `sys.executable` is emulated too. Debian
12's qemu 7.2 cannot: onnxruntime dies at import. Where it cannot be had, the reason is printed and
the exit code is 3.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from kdeploy.errors import Unavailable

SUITE, PYTHON = "trixie", "3.13"
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR = "http://deb.debian.org/debian"
PACKAGES = (f"python{PYTHON}-minimal", f"libpython{PYTHON}-stdlib", "libstdc++6")
WHEELS = ("numpy", "onnxruntime", "ai-edge-litert")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
TRIAL = "import numpy, onnxruntime, ai_edge_litert.interpreter"
PROGRAM = """\
#!/bin/sh
here={folder}
# LANG and PATH stay; the Python of whoever calls must not be looked for.
PYTHONHOME=$here/root/usr PYTHONPATH=$here/site exec $here/qemu-aarch64 -L $here/root \\
    -0 $here/python3 $here/root/usr/bin/python{version} "$@"
"""


def main() -> int:
    """Fetch, and return the exit code."""
    try:
        print(fetched(Path(sys.argv[1])))
    except Unavailable as error:
        print(f"skipped: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def python_of(folder: Path) -> Path:
    """Return the emulated Python of a folder that was fetched, or is being."""
    return folder / "python3"


def fetched(folder: Path) -> Path:
    """Return the emulated Python, fetched now or earlier.

    Raises:
        Unavailable: it cannot be had here, with the reason.
    """
    folder = folder.resolve()
    python = python_of(folder)
    if python.is_file():
        return python
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise Unavailable(f"{SUITE}'s qemu-user is fetched on x86-64 Linux, this is another system")
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None or not KEYS.is_file():
            raise Unavailable(
                f"{program} with Debian's keys ({KEYS}) is not here, which fetches qemu-user",
                hint="run this on Debian, or where `debian-archive-keyring` is installed",
            )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        _debian(Path(temporary), folder)
    _wheels(folder)
    partial = python.with_suffix(".partial")
    partial.write_text(PROGRAM.format(folder=folder, version=PYTHON))
    partial.chmod(0o755)
    _run([str(partial), "-c", TRIAL], "the emulated Python does not run")
    partial.replace(python)
    return python


def _debian(temporary: Path, folder: Path) -> None:
    """Unpack Python with all that it needs as `root`, and qemu beside it."""
    shutil.rmtree(folder / "root", ignore_errors=True)
    (folder / "root/usr/lib").mkdir(parents=True)
    (folder / "root/lib").symlink_to("usr/lib")
    for file in _packages(temporary / "arm64", "arm64", PACKAGES):
        _run(["dpkg-deb", "-x", str(file), str(folder / "root")], f"{file.name} is no package")
    [qemu] = _packages(temporary / "amd64", "amd64", ("qemu-user",))
    _run(["dpkg-deb", "-x", str(qemu), str(temporary / "qemu")], f"{qemu.name} is no package")
    shutil.move(temporary / "qemu/usr/bin/qemu-aarch64", folder / "qemu-aarch64")


def _packages(root: Path, architecture: str, names: tuple[str, ...]) -> list[Path]:
    """Return the files of packages and what they need, by an apt that knows this folder alone."""
    for name in ("etc/sources.list.d", "etc/preferences.d", "etc/apt.conf.d"):
        (root / name).mkdir(parents=True)
    (root / "state/lists/partial").mkdir(parents=True)
    (root / "cache/archives/partial").mkdir(parents=True)
    (root / "state/status").touch()
    line = f"deb [signed-by={KEYS}] {MIRROR} {SUITE} main\n"
    (root / "etc/sources.list").write_text(line)
    settings = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "",
        "Dir::Etc": root / "etc",
        "Dir::State": root / "state",
        "Dir::State::status": root / "state/status",
        "Dir::Cache": root / "cache",
        "Debug::NoLocking": "true",
        "Acquire::Languages": "none",
    }
    apt = ["apt-get", "-qq", *(part for k, v in settings.items() for part in ("-o", f"{k}={v}"))]
    about = f"{MIRROR} does not give {', '.join(names)} of {SUITE} for {architecture}"
    _run([*apt, "update"], about)
    get = ["--yes", "--download-only", "--no-install-recommends", "install"]
    _run([*apt, *get, *names], about)
    return sorted((root / "cache/archives").glob("*.deb"))


def _wheels(folder: Path) -> None:
    site = folder / "site"
    shutil.rmtree(site, ignore_errors=True)
    places = [part for name in PLATFORMS for part in ("--platform", name)]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    command += ["--only-binary", ":all:", "--python-version", PYTHON, *places]
    _run([*command, "--target", str(site), *WHEELS], "pip has no wheels for 64-bit ARM")


def _run(command: list[str], about: str) -> None:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    )
    if done.returncode:
        told = " ".join((done.stderr or done.stdout).split())[-400:]
        raise Unavailable(f"{about}: {told}", hint="is the network there? see the reason above")


if __name__ == "__main__":
    sys.exit(main())
