"""Artefacts: content-addressed folders with a manifest, never a pickle.

`<store>/<id>/manifest.json` and the payload: a torch model as build reference, structure and
safetensors; an ONNX file; measurements. A folder is written aside and renamed, so a kill leaves
nothing or a whole artefact; checksums are verified on reading.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import Any

from kdeploy import __version__
from kdeploy.errors import ArtifactCorrupt, FileMissing, Unavailable
from kdeploy.store.artifact_schema import ID, MOST_BYTES, MalformedManifest, completed
from kdeploy.system.interruption import stop_if_asked
from kdeploy.untrusted.named_path import named_path

SCHEMA_VERSION = 1  # a higher one is refused, with the hint to update
MANIFEST = "manifest.json"
ONNX = "model.onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A stored result: its id, where it lies, what its manifest says."""

    id: str
    folder: Path
    manifest: Mapping[str, Any]

    @property
    def label(self) -> str:
        return str(self.manifest["label"])

    @property
    def kind(self) -> str:
        return str(self.manifest["kind"])

    @property
    def facts(self) -> Mapping[str, Any]:
        return dict(self.manifest.get("facts", {}))

    @property
    def scores(self) -> Mapping[str, Any]:
        return dict(self.manifest.get("scores", {}))

    @property
    def is_quantized(self) -> bool:
        wrapper = (self.manifest.get("model") or {}).get("wrapper")
        return bool(wrapper or self.facts.get("is_quantized"))

    @property
    def file(self) -> Path:
        """The file that a runtime opens, of an artefact that is one; others may stand beside it."""
        return self.folder / str(self.manifest.get("file", ONNX))


def artifact_id(inputs: Mapping[str, Any]) -> str:
    """Return the id of what `inputs` (plain JSON) make: twelve hexadecimal digits."""
    text = json.dumps({**inputs, "kdeploy": __version__}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def file_sha256(path: Path) -> str:
    """Return the checksum of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A folder of artefacts, safe for several processes at once."""

    root: Path

    def get(self, identity: str) -> Artifact | None:
        """Return the artefact, verified, or None when there is none of that id."""
        folder = self.root / identity
        if not (folder / MANIFEST).is_file():
            return None
        artifact = open_artifact(folder)
        if artifact.id != identity:
            raise _corrupt(folder, f"{MANIFEST} is that of {artifact.id}")
        return artifact

    def work(self, identity: str) -> Path:
        """Return the folder where making this artefact may keep what a rerun goes on from."""
        folder = self.root / ".work" / identity
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def sweep(self) -> None:
        """Remove what killed processes left half-made: the kernel has freed their locks."""
        from filelock import FileLock, Timeout

        for partial in self.root.glob(".partial-*"):
            identity = partial.name.removeprefix(".partial-")
            with suppress(Timeout), FileLock(self.root / ".locks" / f"{identity}.lock", timeout=0):
                shutil.rmtree(partial, ignore_errors=True)

    def remove(self, identity: str) -> None:
        """Forget an artefact and what was begun of it."""
        shutil.rmtree(self.root / identity, ignore_errors=True)
        shutil.rmtree(self.root / ".work" / identity, ignore_errors=True)

    @contextmanager
    def lock(self, identity: str) -> Iterator[None]:
        """Hold the right to make this artefact; the kernel frees it when a process dies."""
        from filelock import FileLock

        locks = self.root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{identity}.lock"):
            yield

    def add(
        self, manifest: Mapping[str, Any], write: Callable[[Path], Mapping[str, Any]]
    ) -> Artifact:
        """Write a payload by `write(folder)` and keep it under the manifest's id.

        What `write` returns is added to the manifest. The caller holds the id's lock.

        Raises:
            Unavailable: the disk is full; nothing is left behind.
        """
        identity = str(manifest["id"])
        partial = self.root / f".partial-{identity}"
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed: we hold the lock
        try:
            partial.mkdir(parents=True)
            more = write(partial)
            stop_if_asked()
            write_manifest(partial, {**manifest, **more})
            shutil.rmtree(self.root / identity, ignore_errors=True)
            partial.rename(self.root / identity)
            sync(self.root)
        except OSError as error:
            raise disk_error(error, self.root) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(self.root / ".work" / identity, ignore_errors=True)
        return open_artifact(self.root / identity)

    def adopt(self, artifact: Artifact) -> Artifact:
        """Copy an artefact of another store into this one, unless it is here already."""
        if artifact.folder.parent.resolve() == self.root.resolve():
            return artifact
        with self.lock(artifact.id):
            if (found := self.get(artifact.id)) is not None:
                return found
            partial = self.root / f".partial-{artifact.id}"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(artifact.folder, partial)
            partial.rename(self.root / artifact.id)
        return open_artifact(self.root / artifact.id)


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest with checksums of all other files and of itself, flushed to disk."""
    files = {}
    for name, path in sorted(_payload(folder).items()):
        sync(path)
        files[name] = {"sha256": file_sha256(path), "size": path.stat().st_size}
    whole = {
        "schema_version": SCHEMA_VERSION,
        **manifest,
        "files": files,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "kdeploy": __version__,
    }
    whole["manifest_sha256"] = _manifest_sha256(whole)
    (folder / MANIFEST).write_text(json.dumps(whole, indent=2, default=str) + "\n")
    sync(folder / MANIFEST)


def open_artifact(folder: Path) -> Artifact:
    """Return the artefact in a folder after checking every checksum.

    Raises:
        FileMissing: the folder is no artefact.
        ArtifactCorrupt: the manifest or a payload was changed, cut off or removed.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileMissing(
            f"{folder} is not an artefact: it has no {MANIFEST}",
            hint="name a folder DIR/artifacts/<id> that `kdeploy` wrote",
        )
    manifest = _read_manifest(folder)
    if manifest["schema_version"] > SCHEMA_VERSION:
        raise ArtifactCorrupt(
            f"{folder} was written by kdeploy {manifest['kdeploy']}, newer than this one",
            hint="pip install --upgrade kdeploy",
        )
    _check_payload(folder, manifest["files"])
    return Artifact(id=manifest["id"], folder=folder, manifest=manifest)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if path.stat().st_size > MOST_BYTES:
        raise _corrupt(folder, f"{MANIFEST} has {path.stat().st_size} bytes")
    try:
        manifest = json.loads(path.read_bytes())
        intact = manifest.get("manifest_sha256") == _manifest_sha256(manifest)
    except (ValueError, TypeError, AttributeError, RecursionError):
        intact = False
    if not intact:
        raise _corrupt(folder, f"{MANIFEST} was changed or cut off")
    try:
        return completed(manifest)
    except MalformedManifest as error:
        raise _corrupt(folder, f"{MANIFEST} says what cannot be: {error}") from None


def _check_payload(folder: Path, listed: Mapping[str, Any]) -> None:
    """Raise unless the folder has the files of its manifest, unchanged, and no other."""
    found = _payload(folder)
    for name, facts in listed.items():
        if name not in found:
            raise _corrupt(folder, f"{name} is missing")
        file = found[name]
        if file.stat().st_size != facts["size"] or file_sha256(file) != facts["sha256"]:
            raise _corrupt(folder, f"the checksum of {name} does not hold")
    for name in sorted(found.keys() - listed.keys()):
        # Earlier versions left out every manifest.json, also that of a bundle: nothing vouches
        # for what it says now.
        older = ", or an earlier kdeploy made it" if Path(name).name == MANIFEST else ""
        raise _corrupt(folder, f"it has {name}, which its manifest does not list{older}")


def _payload(folder: Path) -> dict[str, Path]:
    """Return all files of an artefact but its own manifest, by name."""
    found = {}
    for path in folder.rglob("*"):
        place, mode = path.relative_to(folder), path.lstat().st_mode
        name = place.as_posix()
        # Python leaves bytecode beside modules that a build.py imports.
        if stat.S_ISDIR(mode) or name == MANIFEST or "__pycache__" in place.parts:
            continue
        if not stat.S_ISREG(mode):
            raise _corrupt(folder, f"{name} is a link or a device, not a file")
        found[name] = path
    return found


def is_id(reference: str) -> bool:
    """Say whether it is written as ids are; whether there is such an artefact is not looked at."""
    return ID.fullmatch(reference) is not None


def no_file(reference: str) -> FileMissing:
    """Return the error for what is neither an artefact, a bundle nor a file."""
    return FileMissing(
        f"`{reference}` is neither an artefact nor a file",
        hint="name an ONNX file, a bundle, a folder DIR/artifacts/<id>, or its id",
    )


def find_artifact(reference: str, stores: Sequence[Path] = ()) -> Artifact | None:
    """Return the artefact of a folder or an id; None when `reference` is neither.

    An id is looked for in `stores`, then below `artifacts` and `runs/*/artifacts` here.
    """
    path = named_path(reference)
    if (path / MANIFEST).is_file():
        return open_artifact(path)
    if not is_id(reference):
        return None
    here = [Path("artifacts"), *sorted(Path().glob("runs/*/artifacts"))]
    for root in [*stores, *here]:
        if (root / reference / MANIFEST).is_file():
            return open_artifact(root / reference)
    looked = ", ".join(str(p) for p in [*stores, *here])
    raise FileMissing(
        f"there is no artefact `{reference}`; looked in {looked}",
        hint="name its folder: DIR/artifacts/<id>",
    )


def _manifest_sha256(manifest: Mapping[str, Any]) -> str:
    rest = {k: v for k, v in manifest.items() if k != "manifest_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, default=str).encode()).hexdigest()


def _corrupt(folder: Path, what: str) -> ArtifactCorrupt:
    return ArtifactCorrupt(
        f"artefact {folder} is damaged: {what}",
        hint=f"remove it, and run again what made it: rm -r {quote(str(folder))}",
    )


def disk_error(error: OSError, root: Path) -> Unavailable:
    """Return what to tell a user whose disk refused a write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Unavailable(
            f"the disk of {root} is full; nothing half-written was kept",
            hint="free some space and run the same command again: it goes on from here",
        )
    return Unavailable(f"cannot write to {root}: {error}", hint="choose another --out folder")


def sync(path: Path) -> None:
    """Flush a file or folder, so that a renamed artefact is whole after a power cut too."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
