"""What every emitter does: writes the same files each time, into its own folder and no other."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from kdeploy.package.emission import Bundle, emissions
from kdeploy.package.kinds import formats
from kdeploy.package.manifest import read_manifest
from kdeploy.package.run import package
from kdeploy.registry import techniques
from tests.package import conftest as tiny

KINDS = ("emitter",)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A bundle of the tiny ONNX file, with nothing for any place."""
    folder = tmp_path_factory.mktemp("plain")
    path = folder / "tiny.onnx"
    onnx.save(tiny._onnx_model(), path)
    items = np.random.default_rng(0).integers(0, 256, (2, *tiny.SHAPE), dtype=np.uint8)
    inputs = tiny.PREPROCESSING.apply(items)
    out = package(
        path,
        folder / "bundle",
        manifest=tiny._artifact_manifest(),
        golden=(inputs, tiny._run_onnx(path, inputs)),
        accuracy={},
        budgets=[],
    )
    return Bundle(folder=out, manifest=read_manifest(out))


def written(technique, plain, folder):
    folder.mkdir()
    (one,) = emissions([{technique.name: {}}], "emit")[:1]
    technique.load()(plain, folder, **one.parameters)
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_writes_the_same_each_time_and_nothing_elsewhere(technique, plain, tmp_path):
    before = contents(plain.folder)
    first = written(technique, plain, tmp_path / technique.name)
    (tmp_path / "again").mkdir()
    assert first
    assert written(technique, plain, tmp_path / "again" / technique.name) == first
    assert contents(plain.folder) == before


def test_is_for_formats_that_bundles_ship(technique):
    assert set(technique.facts.get("formats", ())) <= formats()


def test_needs_emitters_that_there_are_and_that_need_none(technique):
    for name in technique.facts.get("needs", ()):
        assert not techniques("emitter")[name].facts.get("needs")
