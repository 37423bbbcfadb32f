"""Stored artefacts that somebody changed: their bytes, or their manifest with a sum that holds."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch._dynamo  # noqa: F401 - imported once, before a child is forked for every mutant

from kdeploy.pipeline.artifact_data import data_of
from kdeploy.pipeline.exporting import model_under_test
from kdeploy.store.artifact import open_artifact, write_manifest
from kdeploy.store.model_io import load_model, preprocessing_of, reference_of
from tests.fuzz.bases import bases
from tests.fuzz.values import changed, damaged

# Written by `write_manifest` itself.
_WRITTEN = ("schema_version", "files", "created", "kdeploy", "manifest_sha256")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The files of an artefact; a manifest to sign again; what there is beside files."""

    files: dict[str, bytes]
    manifest: dict[str, object] | None = None
    pipes: tuple[str, ...] = ()
    must_be_refused: bool = True

    def write(self, folder: Path) -> Path:
        """Write the artefact and return its folder."""
        target = folder / "artefact"
        for name, content in self.files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(content)
        for name in self.pipes:
            (target / name).unlink(missing_ok=True)
            os.mkfifo(target / name)
        if self.manifest is not None:
            write_manifest(target, self.manifest)
        return target


def mutants(seed: int, count: int) -> Iterator[tuple[str, Stored]]:
    """Yield artefacts by what was done to them."""
    chance = random.Random(seed)
    for number in range(count):
        way = chance.choice((_bytes, _files, _signed, _signed, _signed, _weights))
        about, stored = way(chance)
        yield f"{way.__name__[1:]} {seed}.{number}: {about}", stored


def read(stored: Stored) -> None:
    """Do what commands do with an artefact: open, describe, rebuild."""
    from kdeploy.cli.show import show_artifact

    artifact = open_artifact(stored.write(Path.cwd()))
    data_of(artifact)
    model_under_test(artifact)
    show_artifact(artifact, is_json=False)
    preprocessing_of(artifact)
    if artifact.kind == "torch":
        reference_of(artifact)
        load_model(artifact)


@lru_cache
def _folder() -> Path:
    (folder,) = (bases() / "store").iterdir()
    return folder


def _contents() -> dict[str, bytes]:
    folder = _folder()
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def _bytes(chance: random.Random) -> tuple[str, Stored]:
    files = _contents()
    name = chance.choice(sorted(files))
    files[name] = damaged(chance, files[name])
    is_changed = files[name] != _contents()[name]
    if name == "manifest.json" and is_changed:
        is_changed = not _is_equal(files[name], _contents()[name])
    return name, Stored(files=files, must_be_refused=is_changed)


def _is_equal(one: bytes, other: bytes) -> bool:
    """Tell whether two texts are the same JSON: a space more changes nothing."""
    try:
        return bool(json.loads(one) == json.loads(other))
    except (ValueError, RecursionError):
        return False


def _files(chance: random.Random) -> tuple[str, Stored]:
    files = _contents()
    name, kind = chance.choice(sorted(files)), chance.randrange(4)
    pipes: tuple[str, ...] = ()
    if kind == 0:
        del files[name]
    elif kind == 1:
        files["inner/manifest.json"] = b"{}"
    elif kind == 2:
        pipes = (name,)
    else:
        files[name] = chance.choice([b"\n", b"\0", b"[", b'{"a":']) * 2**26
    return f"{name} ({kind})", Stored(files=files, pipes=pipes)


def _signed(chance: random.Random) -> tuple[str, Stored]:
    files = _contents()
    whole = json.loads(files.pop("manifest.json"))
    kept = {key: value for key, value in whole.items() if key not in _WRITTEN}
    document, place = changed(chance, kept)
    return place, Stored(files=files, manifest=document, must_be_refused=False)


def _weights(chance: random.Random) -> tuple[str, Stored]:
    files = _contents()
    whole = json.loads(files.pop("manifest.json"))
    files["model.safetensors"] = damaged(chance, files["model.safetensors"])
    kept = {key: value for key, value in whole.items() if key not in _WRITTEN}
    return "weights", Stored(files=files, manifest=kept, must_be_refused=False)
