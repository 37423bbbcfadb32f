"""Prove a bundle on this machine, without trusting it.

Everything is checked before anything runs: the zip's names and sizes, every checksum, the
manifest's schema, and that manifest and ONNX file say the same. Then this kdeploy's own runner is
executed in a child process on the bundle's files. The bundle's runner is compared with it and never
executed: whoever can forge a runner can forge its line in SHA256SUMS.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kdeploy import __version__
from kdeploy.errors import ArtifactCorrupt, FileMissing, ModelError, Unavailable
from kdeploy.package import emission
from kdeploy.package.checksums import check_sums, digest
from kdeploy.package.kinds import FOLDER, kind_of, runner_files, write_runner
from kdeploy.package.manifest import MANIFEST, Manifest, read_manifest
from kdeploy.package.ports import contradiction
from kdeploy.package.runner.python.reading import DEPLOY, SIGNATURE, Refused, plain_files
from kdeploy.package.runner.python.rules import REQUIRED, check_rules
from kdeploy.package.signatures import Trust, check_release, check_signature, check_trust
from kdeploy.package.unpack import unpack
from kdeploy.system.process_end import named_end
from kdeploy.system.temporary import temporary_folder

ANYBODY = Trust()
# What the runner's own limits do not end is ended from here, so much later.
GRACE_SECONDS = 30.0
LONGEST_SECONDS = 600.0  # where neither the user nor a budget says
# Runners of earlier versions that read bundles as this one does, by their fingerprint.
EARLIER = frozenset({"17b88ebfed54754b3a298f866c5e9d327af817f03e406281d9efa7eed06cf456"})


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult:
    """Every check with value, bound, verdict and reason; and what was measured on the way."""

    passed: bool
    checks: list[dict[str, Any]]
    measured: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def verify(
    bundle: Path,
    *,
    timeout_seconds: float | None = None,
    memory_bytes: int | None = None,
    trust: Trust = ANYBODY,
) -> VerifyResult:
    """Return the verdict on a bundle, a folder or a zip; it is left as it is.

    Args:
        bundle: What nobody vouches for.
        timeout_seconds: That its model may take; None: by its budgets, two minutes at least.
        memory_bytes: The same of memory; None: by its budgets and size, 640 MiB at least.
        trust: Who must have signed it, and which release it must be at least.

    Raises:
        UntrustedBundle: it does not prove its origin as `trust` asks.
        FileMissing: there is no such bundle.
        ArtifactCorrupt: it is damaged, incomplete, contradicts itself, or of a later kdeploy.
    """
    check_trust(trust)
    with _opened(bundle) as folder:
        digests = check_sums(folder)
        signature = check_signature(folder, trust)
        manifest = checked_manifest(folder, digests)
        is_signed = trust.key is not None and SIGNATURE in plain_files(folder)
        release = check_release(manifest.release, trust, is_signed=is_signed)
        contents = f"{len(digests)} files; the checksum of SHA256SUMS is {digest(folder)}"
        report = _self_test(folder, manifest, timeout_seconds, memory_bytes)
        checks = [
            _check("contents", True, contents),
            _check("signature", True, signature),
            *([_check("release", True, release)] if release else []),
            _runner_check(folder, manifest),
            *_emitted_checks(folder, manifest, digests),
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
    with temporary_folder("verify") as folder:
        try:
            unpack(bundle, folder)
        except OSError as error:
            raise Unavailable(
                f"{bundle} cannot be unpacked to {folder}: {error}",
                hint="free some space, or set TMPDIR to a folder with more",
            ) from error
        yield folder


def checked_manifest(folder: Path, digests: Mapping[str, str]) -> Manifest:
    """Return the manifest of an unpacked bundle of which every rule holds.

    Raises:
        ArtifactCorrupt: a file is missing, or one says another thing than itself or another.
    """
    for name in REQUIRED:
        if name not in digests:
            raise _corrupt(f"it has no {name}")
    manifest = read_manifest(folder)
    try:
        # Before the file is read whole: what each rule says of it needs its names only.
        check_rules(folder, dict(digests))
        kind = kind_of(manifest.model.format)
        reason = contradiction(manifest, kind.facts_of(folder / manifest.model.file))
    except Refused as error:
        raise _corrupt(str(error)) from None
    except ModelError as error:
        raise _corrupt(error.message) from None
    if reason:
        raise _corrupt(f"{MANIFEST} and {manifest.model.file} do not fit: {reason}")
    return manifest


def _runner_check(folder: Path, manifest: Manifest) -> dict[str, Any]:
    own = runner_files(manifest.model.format, _task(manifest))
    differing = [name for name, content in own.items() if _content(folder / name) != content]
    if not differing:
        return _check("runner", True, f"the same as that of kdeploy {__version__}")
    found = {path.name: _content(path) for path in (folder / FOLDER).iterdir()}
    if _fingerprint(found) in EARLIER:
        return _check("runner", True, "that of an earlier kdeploy; it was not executed")
    reason = (
        f"{differing[0]} is not that of kdeploy {__version__} and was not executed; the "
        f"bundle says kdeploy {manifest.kdeploy[:40]} made it: verify it with that version, "
        "or package it again"
    )
    return _check("runner", False, reason)


def _emitted_checks(
    folder: Path, manifest: Manifest, digests: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return the check that what a bundle brings beside its runners is what kdeploy writes."""
    if not any(name.startswith(DEPLOY) for name in digests):
        return []
    try:
        differing = emission.differing(emission.Bundle(folder=folder, manifest=manifest), digests)
    except Refused as error:
        return [_check("deploy", False, str(error))]
    if not differing:
        return [_check("deploy", True, f"what the emitters of kdeploy {__version__} write")]
    reason = f"{differing[0]} is not what the emitters of kdeploy {__version__} write"
    return [_check("deploy", False, reason)]


def _task(manifest: Manifest) -> str:
    return str(manifest.task.get("name", ""))


def _content(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def _fingerprint(files: Mapping[str, bytes | None]) -> str:
    """Return one checksum of a runner's files, by their names."""
    parts = (f"{name} {hashlib.sha256(files[name] or b'').hexdigest()}" for name in sorted(files))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _self_test(
    folder: Path, manifest: Manifest, timeout_seconds: float | None, memory_bytes: int | None
) -> dict[str, Any]:
    with temporary_folder("runner") as own:
        return _answer(
            write_runner(own, manifest.model.format, _task(manifest)),
            folder,
            timeout_seconds,
            memory_bytes,
        )


def _answer(
    runner: Path, folder: Path, timeout_seconds: float | None, memory_bytes: int | None
) -> dict[str, Any]:
    # -P: the runner's folder is not searched for modules; -B: nothing is written there.
    python = [sys.executable, "-P", "-B", str(runner)]
    command = [*python, "--bundle", str(folder), "--self-test", "--json"]
    if timeout_seconds is not None:
        command += ["--timeout", str(timeout_seconds)]
    if memory_bytes is not None:
        command += ["--memory-limit", str(max(1, memory_bytes // 2**20))]
    last_resort = (timeout_seconds or LONGEST_SECONDS) + GRACE_SECONDS
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=last_resort,
            check=False,
        )
    except subprocess.TimeoutExpired:
        reason = f"stopped after {last_resort:g} s without an answer"
        return {"checks": [_check("self_test", False, reason)]}
    try:
        return dict(json.loads(done.stdout))
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["no message"])[0]
        reason = f"the runner ended with {named_end(done.returncode)}: {last}"
        return {"checks": [_check("self_test", False, reason)]}


def _check(name: str, passed: bool, reason: str) -> dict[str, Any]:
    empty = {"value": None, "bound": None, "unit": ""}
    return {"check": name, **empty, "passed": passed, "reason": reason}


def _corrupt(what: str) -> ArtifactCorrupt:
    return ArtifactCorrupt(
        f"the bundle is not usable: {what}",
        hint="get it again, or make it again with `kdeploy package`",
    )
