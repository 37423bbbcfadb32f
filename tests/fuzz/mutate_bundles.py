"""Bundles that somebody changed: their bytes as they are, or signed again so that every sum holds.

Whoever changes a byte and no checksum must be found out. Whoever signs again may write what nobody
can know better (a name, a date, a budget), and nothing else.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import onnx  # noqa: F401 - imported once, before a child is forked for every mutant
import onnxruntime  # noqa: F401 - the same
import pydantic  # noqa: F401 - the same

from kdeploy.errors import ArtifactCorrupt
from kdeploy.package import verify as verify_module
from kdeploy.package.kinds import write_runner
from kdeploy.package.manifest import read_manifest
from kdeploy.package.publish import write_zip
from kdeploy.package.runner.python import limits
from kdeploy.package.unpack import unpack
from kdeploy.store.artifact import file_sha256
from tests.fuzz.bases import bases
from tests.fuzz.harness import apart
from tests.fuzz.values import changed, damaged

BASES = ("bundle", "bundle", "dynamic")
# What nobody but its maker can know.
FREE = (
    "name", "created", "kdeploy", "artifact", "model.profile", "accuracy", "recorded", "budgets",
    "chosen_because", "licences", "machine", "made_with", "lineage", "preprocessing.scale",
    "preprocessing.mean", "preprocessing.std", "preprocessing.resize", "preprocessing.dtype",
    "preprocessing.vocabulary", "preprocessing.background", "inputs.0.values", "spread",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A zip, or the files of a folder and what there is beside files."""

    content: bytes = b""
    is_zip: bool = False
    pipes: tuple[str, ...] = ()
    must_be_refused: bool = True

    def write(self, folder: Path) -> Path:
        """Write it below a folder and return its path."""
        path = folder / ("bundle.zip" if self.is_zip else "bundle")
        if self.is_zip:
            path.write_bytes(self.content)
            return path
        with zipfile.ZipFile(io.BytesIO(self.content)) as archive:
            archive.extractall(path)
        for name in self.pipes:
            (path / name).unlink(missing_ok=True)
            os.mkfifo(path / name)
        return path


def mutants(seed: int, count: int) -> Iterator[tuple[str, Bundle]]:
    """Yield bundles by what was done to them."""
    read_manifest(bases() / "bundle")  # builds once what checks types
    _runner("onnx"), _runner("dynamic")  # before a child is forked for every mutant
    chance = random.Random(seed)
    ways = (_bytes, _bytes, _zip_bytes, _files, _signed, _signed, _signed, _golden, _model)
    for number in range(count):
        way = chance.choice(ways)
        about, bundle = way(chance)
        yield f"{way.__name__[1:]} {seed}.{number}: {about}", bundle


def read(bundle: Bundle) -> None:
    """Verify as `kdeploy verify` does, its runner in this process; and ask the runner alone."""
    path = bundle.write(Path.cwd())
    verify_module._self_test = lambda folder, manifest, *_: _self_test(
        _runner(manifest.model.format), folder
    )
    result = verify_module.verify(path)
    if not result.passed:
        reason = next(c["reason"] for c in result.checks if not c["passed"])
        raise ArtifactCorrupt(f"it does not pass: {reason}", hint="as it should be")
    if bundle.is_zip and _is_same(path):
        raise ArtifactCorrupt("only the zip's own bytes were changed", hint="no change at all")


def _is_same(path: Path) -> bool:
    """Tell whether a zip holds the very files of the base."""
    folder = Path.cwd() / "again"
    folder.mkdir()
    unpack(path, folder)
    return _tree(folder) in [_tree(bases() / name) for name in BASES]


def _tree(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): file_sha256(p) for p in folder.rglob("*") if p.is_file()
    }


def _self_test(runner: Any, folder: Path) -> dict[str, Any]:
    given = runner._parsed(["--self-test", "--threads", "1", "--bundle", str(folder)])
    return dict(runner._self_test(given, []))


@lru_cache
def _runner(form: str) -> Any:
    for name in [n for n in sys.modules if n.partition(".")[0] == "kdeploy_bundle"]:
        del sys.modules[name]  # of another form: its `session` is another one
    program = write_runner(Path(tempfile.mkdtemp(prefix="kdeploy-fuzz-")), form)
    spec = util.spec_from_file_location("bundle_runner", program)
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module._limited = lambda given, arguments, manifest: _limited(module, given, manifest)
    module.limits.Ended = limits.Ended
    module.WARM_UP_COUNT, module.MINIMUM_COUNT, module.P99_COUNT = 1, 2, 3
    module.WARM_UP_SECONDS = module.MINIMUM_SECONDS = 0.0
    return module


def _limited(runner: Any, given: Any, manifest: Any) -> dict[str, Any]:
    given.in_child = True
    given.memory_limit, given.timeout = runner.rules.allowances(manifest, given.threads)
    return apart(lambda: runner._worked(given))


@lru_cache
def _zipped() -> bytes:
    folder = Path(tempfile.mkdtemp(prefix="kdeploy-fuzz-"))
    return write_zip(bases() / "bundle", folder / "bundle.zip").read_bytes()


def _packed(files: dict[str, bytes]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return written.getvalue()


def _contents(chance: random.Random) -> dict[str, bytes]:
    folder = bases() / chance.choice(BASES)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")} | {
        "SHA256SUMS": (folder / "SHA256SUMS").read_bytes()
    }


def _signed_again(files: dict[str, bytes]) -> bytes:
    """Return the files with sums that hold, and a manifest that fits its model."""
    sums = [
        f"{hashlib.sha256(content).hexdigest()}  {name}\n"
        for name, content in sorted(files.items())
        if name != "SHA256SUMS"
    ]
    return _packed({**files, "SHA256SUMS": "".join(sums).encode()})


def _bytes(chance: random.Random) -> tuple[str, Bundle]:
    """Change the bytes of one file and no sum."""
    files = _contents(chance)
    name = chance.choice(sorted(files))
    before = files[name]
    files[name] = damaged(chance, before)
    is_changed = files[name] != before
    is_zip = chance.random() < 0.3
    return name, Bundle(content=_packed(files), is_zip=is_zip, must_be_refused=is_changed)


def _zip_bytes(chance: random.Random) -> tuple[str, Bundle]:
    return "zip", Bundle(content=damaged(chance, _zipped()), is_zip=True)


def _files(chance: random.Random) -> tuple[str, Bundle]:
    """Take a file away, rename it, add one, or put a pipe in its place."""
    files = _contents(chance)
    name, kind = chance.choice(sorted(files)), chance.randrange(6)
    pipes: tuple[str, ...] = ()
    if kind == 0:
        del files[name]
    elif kind == 1:
        files[chance.choice(["x", f"{name}.x", f"LICENSES/{name}", "a/" * 40 + "x"])] = files.pop(
            name
        )
    elif kind == 2:
        files[chance.choice(["x", "runner/python/numpy.py", "golden/x.npz"])] = b"x"
    elif kind == 3:
        pipes = (name,)
    elif kind == 4:
        size = chance.choice([2**20 + 1, 2**24, 2**28])
        files[name] = chance.choice([b"\n", b"\0", b"x", b"["]) * size
    else:
        files |= {f"many/{n}": b"" for n in range(1100)}
    if kind != 3 and chance.random() < 0.5:  # the sums hold, and still it is no bundle
        is_extra = kind == 2 or (kind == 0 and name.startswith(("LICENSES/THIRD", "requirements")))
        is_extra |= name == "SHA256SUMS"  # which signing writes anew
        free = is_extra or (kind in (1, 4) and name in ("README.md", "LICENSES/THIRD_PARTY.md"))
        free |= kind == 1 and name == "requirements.txt"  # no runner reads it
        content = _signed_again(files)
        is_zip = chance.random() < 0.5
        return f"{name} ({kind}), signed", Bundle(
            content=content, is_zip=is_zip, must_be_refused=not free
        )
    return f"{name} ({kind})", Bundle(content=_packed(files), pipes=pipes)


def _signed(chance: random.Random) -> tuple[str, Bundle]:
    """Change a value of a JSON file and sign again."""
    files = _contents(chance)
    name = chance.choice(["manifest.json", "manifest.json", "golden/tolerance.json"])
    document, place = changed(chance, json.loads(files[name]))
    is_same = document == json.loads(files[name])
    files[name] = json.dumps(document).encode()
    is_free = place.startswith(FREE) or is_same
    return f"{name} {place}", Bundle(content=_signed_again(files), must_be_refused=not is_free)


def _golden(chance: random.Random) -> tuple[str, Bundle]:
    """Change a golden array and sign again."""
    files = _contents(chance)
    name = chance.choice(["golden/inputs.npz", "golden/outputs.npz"])
    before, files[name] = files[name], damaged(chance, files[name])
    if name.endswith("outputs.npz") and chance.random() < 0.3:
        array = np.load(io.BytesIO(before))["outputs"].copy()
        array.reshape(-1)[chance.randrange(array.size)] = chance.choice([np.nan, np.inf, 1e30, 0.0])
        written = io.BytesIO()
        np.savez(written, outputs=array)
        files[name] = written.getvalue()
    # A changed bit within the tolerance is no contradiction: outputs say what they say.
    return name, Bundle(content=_signed_again(files), must_be_refused=False)


def _model(chance: random.Random) -> tuple[str, Bundle]:
    """Change the model, or a part of it, let the manifest fit it and sign again."""
    files = _contents(chance)
    name = chance.choice(sorted(n for n in files if n.startswith("model.") and ".dynamic" not in n))
    files[name] = damaged(chance, files[name])
    manifest = json.loads(files["manifest.json"])
    if name != manifest["model"]["file"]:  # a part, which the file names, too
        told = json.loads(files["model.dynamic"])
        part = int(name.removeprefix("model.part-").removesuffix(".onnx"))
        for one in (told, manifest["dynamic"]):
            one["parts"][part]["sha256"] = hashlib.sha256(files[name]).hexdigest()
        files["model.dynamic"] = json.dumps(told).encode()
    size = sum(len(content) for n, content in files.items() if n.startswith("model."))
    digest = hashlib.sha256(files[manifest["model"]["file"]]).hexdigest()
    manifest["model"].update(sha256=digest, size=size)
    manifest["recorded"]["size"] = float(size)
    files["manifest.json"] = json.dumps(manifest).encode()
    # What passes gives the recorded outputs: a changed name or comment.
    return name, Bundle(content=_signed_again(files), must_be_refused=False)
