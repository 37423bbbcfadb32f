"""The digests of wheels, asked of the package index by pip: no wheel is fetched."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from kdeploy.errors import Unavailable

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
ARCHITECTURES = ("x86_64", "aarch64")
GLIBC = ("2_39", "2_34", "2_31", "2_28", "2_27", "2_17", "2014")
"""Of the platforms that wheels name, newest first; the last is the old name of 2.17."""
SECONDS = 120.0
"""That one question may take: pip reads the metadata of a few wheels."""


def digests_of(pins: Sequence[str]) -> Mapping[str, list[str]]:
    """Return the SHA-256 of the Linux wheels of each `name==version`; none of what has no wheel.

    Raises:
        Unavailable: pip is not there, or the index does not answer.
    """
    found: dict[str, set[str]] = {pin: set() for pin in pins}
    reason = ""
    for python in PYTHONS:
        for architecture in ARCHITECTURES:
            for pin in pins:
                answer = _asked([pin], python, architecture)
                if isinstance(answer, str):
                    reason = answer  # a version may have no wheel for a Python
                else:
                    found[pin] |= answer
    if not any(found.values()):
        raise Unavailable(
            f"the package index tells no digests of {', '.join(pins)}: {reason}",
            hint="leave `--ask-index` out, and the file pins versions alone; or check the network, "
            "and `pip config list`",
        )
    return {pin: sorted(digests) for pin, digests in found.items()}


def _asked(pins: Sequence[str], python: str, architecture: str) -> set[str] | str:
    """Return the digests of the wheels that pip would take on a platform, or why it takes none."""
    platforms = [f"manylinux{'' if g == '2014' else '_'}{g}_{architecture}" for g in GLIBC]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
    command += ["--no-deps", "--quiet", "--only-binary=:all:", "--report", "-"]
    command += ["--target", "unused", "--python-version", python, "--implementation", "cp"]
    command += [word for name in platforms for word in ("--platform", name)]
    try:
        done = subprocess.run(
            [*command, *pins], capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {SECONDS:g} s"
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        return (last or done.stderr.strip().splitlines() or ["pip failed"])[-1][:300]
    report: dict[str, Any] = json.loads(done.stdout)
    return {one["download_info"]["archive_info"]["hashes"]["sha256"] for one in report["install"]}
