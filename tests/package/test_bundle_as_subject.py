from __future__ import annotations

import shutil

import pytest

from kdeploy.errors import ArtifactCorrupt
from kdeploy.pipeline.bundles import model_of_bundle


def test_a_bundle_is_measured_as_the_file_that_it_ships(bundle, tmp_path):
    subject = model_of_bundle(str(bundle), tmp_path)
    assert subject.path == bundle / "model.onnx"
    assert (subject.label, subject.artifact, subject.format) == ("tiny", "b" * 12, "onnx")
    assert (subject.stage, subject.technique, subject.profile) == ("package", "bundle", "cpu")


def test_a_zip_is_unpacked_and_the_same(bundle, tmp_path):
    packed = shutil.make_archive(str(tmp_path / "board"), "zip", bundle)
    subject = model_of_bundle(packed, tmp_path / "out")
    assert subject.path == tmp_path / "out" / "bundles" / "board" / "model.onnx"
    assert subject.path.read_bytes() == (bundle / "model.onnx").read_bytes()


def test_a_damaged_bundle_is_not_measured(bundle, tmp_path):
    with (bundle / "model.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ArtifactCorrupt):
        model_of_bundle(str(bundle), tmp_path)


def test_other_files_and_folders_are_no_bundles(tiny, tmp_path):
    assert model_of_bundle(str(tiny.path), tmp_path) is None
    assert model_of_bundle(str(tmp_path), tmp_path) is None
    assert model_of_bundle("0123456789ab", tmp_path) is None
