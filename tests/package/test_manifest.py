"""The manifest: what is written is what is read."""

from __future__ import annotations

from kdeploy.package.manifest import is_manifest_of_bundle, read_manifest, write_manifest


def test_reading_and_writing_gives_the_same_bytes(pristine, tmp_path):
    write_manifest(read_manifest(pristine), tmp_path)
    assert (tmp_path / "manifest.json").read_bytes() == (pristine / "manifest.json").read_bytes()


def test_only_a_bundles_manifest_is_taken_for_one(pristine):
    assert is_manifest_of_bundle((pristine / "manifest.json").read_bytes())
    for text in (b"", b"[]", b"{", b'{"kind": "onnx"}', b"\xff", b"[" * 100_000):
        assert not is_manifest_of_bundle(text)
