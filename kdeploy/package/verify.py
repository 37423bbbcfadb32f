"""Prove a bundle on this machine, without trusting it.

Everything is checked before anything runs: the zip's names and sizes, every checksum, the
manifest's schema, and that manifest and ONNX file say the same. Then this kdeploy's own runner is
executed in a child process on the bundle's files. The bundle's runner is compared with it and never
executed: whoever can forge a runner can forge its line in SHA256SUMS.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kdeploy import __version__
from kdeploy.artifact import file_sha256
from kdeploy.errors import ArtifactCorrupt, FileMissing, ModelError, Unavailable
from kdeploy.package.checksums import check_sums, digest
from kdeploy.package.manifest import MANIFEST, MODEL, Manifest, read_manifest
from kdeploy.package.onnx_file import contradiction, facts_of
from kdeploy.package.run import RUNNER, RUNNER_IN_BUNDLE
from kdeploy.package.unpack import unpack

GOLDEN = ("golden/inputs.npz", "golden/outputs.npz")
REQUIRED = (MANIFEST, MODEL, RUNNER_IN_BUNDLE, *GOLDEN, "golden/tolerance.json", "README.md")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult:
    """Every check with value, bound, verdict and reason; and what was measured on the way."""

    passed: bool
    checks: list[dict[str, Any]]
    measured: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def verify(bundle: Path, *, timeout_seconds: float = 600) -> VerifyResult:
    """Return the verdict on a bundle, a folder or a zip; it is left as it is.

    Raises:
        FileMissing: there is no such bundle.
        ArtifactCorrupt: it is damaged, incomplete, not a bundle, or of a later kdeploy.
    """
    with _opened(bundle) as folder:
        digests = check_sums(folder)
        manifest = _checked_manifest(folder, digests)
        contents = f"{len(digests)} files; the checksum of SHA256SUMS is {digest(folder)}"
        report = _self_test(folder, timeout_seconds)
        checks = [
            _check("contents", True, contents),
            _runner_check(folder, manifest),
            *report["checks"],
        ]
    passed = all(check["passed"] for check in checks)
    return VerifyResult(passed=passed, checks=checks, measured=report.get("measured", {}))


@contextmanager
def _opened(bundle: Path) -> Iterator[Path]:
    if bundle.is_dir():
        yield bundle.resolve()
        return
    if not bundle.is_file():
        raise FileMissing(f"there is no bundle {bundle}", hint="`kdeploy package` makes one")
    if not zipfile.is_zipfile(bundle):
        raise ArtifactCorrupt(
            f"{bundle} is neither a folder nor a whole zip file",
            hint="name the bundle's folder or its .zip; was it cut off while copying?",
        )
    with tempfile.TemporaryDirectory(prefix="kdeploy-verify-") as folder:
        try:
            unpack(bundle, Path(folder))
        except OSError as error:
            raise Unavailable(
                f"{bundle} cannot be unpacked to {folder}: {error}",
                hint="free some space, or set TMPDIR to a folder with more",
            ) from error
        yield Path(folder)


def _checked_manifest(folder: Path, digests: Mapping[str, str]) -> Manifest:
    missing = [name for name in REQUIRED if name not in digests]
    if missing:
        raise _corrupt(f"it has no {missing[0]}")
    manifest = read_manifest(folder)
    try:
        reason = contradiction(manifest, facts_of(folder / MODEL))
    except ModelError as error:
        raise _corrupt(error.message) from None
    if reason or manifest.model.sha256 != digests[MODEL]:
        raise _corrupt(f"{MANIFEST} and {MODEL} do not fit: {reason or 'another checksum'}")
    for name in GOLDEN:
        _check_npz(folder / name)
    return manifest


def _check_npz(path: Path) -> None:
    """Refuse arrays that are packed: what was not packed cannot unpack to more than its size."""
    try:
        with zipfile.ZipFile(path) as archive:
            is_plain = all(e.compress_type == zipfile.ZIP_STORED for e in archive.infolist())
    except (zipfile.BadZipFile, ValueError, EOFError):
        is_plain = False
    if not is_plain:
        raise _corrupt(f"golden/{path.name} is no plain array file")


def _runner_check(folder: Path, manifest: Manifest) -> dict[str, Any]:
    if file_sha256(folder / RUNNER_IN_BUNDLE) == file_sha256(RUNNER):
        return _check("runner", True, f"the same as that of kdeploy {__version__}")
    reason = (
        f"{RUNNER_IN_BUNDLE} is not that of kdeploy {__version__} and was not executed; the "
        f"bundle says kdeploy {manifest.kdeploy} made it: verify it with that version, or "
        "package it again"
    )
    return _check("runner", False, reason)


def _self_test(folder: Path, timeout_seconds: float) -> dict[str, Any]:
    # -P: the runner's folder is not searched for modules; -B: nothing is written there.
    python = [sys.executable, "-P", "-B", str(RUNNER)]
    command = [*python, "--bundle", str(folder), "--self-test", "--json"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        reason = f"stopped after {timeout_seconds:g} s without an answer"
        return {"checks": [_check("self_test", False, reason)]}
    try:
        return dict(json.loads(done.stdout))
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["no message"])[0]
        reason = f"the runner ended with code {done.returncode}: {last}"
        return {"checks": [_check("self_test", False, reason)]}


def _check(name: str, passed: bool, reason: str) -> dict[str, Any]:
    empty = {"value": None, "bound": None, "unit": ""}
    return {"check": name, **empty, "passed": passed, "reason": reason}


def _corrupt(what: str) -> ArtifactCorrupt:
    return ArtifactCorrupt(
        f"the bundle is not usable: {what}",
        hint="get it again, or make it again with `kdeploy package`",
    )
