"""Who made a bundle: changed bytes, a stranger's key, no signature and old releases are refused."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from kdeploy.errors import ArtifactCorrupt, FileMissing, InputError, UntrustedBundle
from kdeploy.package import verify as module
from kdeploy.package.checksums import write_sums
from kdeploy.package.manifest import read_manifest
from kdeploy.package.signatures import (
    Signing,
    Trust,
    check_release,
    check_signature,
    check_signing,
    check_trust,
)
from kdeploy.package.verify import verify

pytest.importorskip("cryptography", reason="pip install cryptography")


def write_keys(folder, name="key"):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    pem, key = serialization.Encoding.PEM, Ed25519PrivateKey.generate()
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.pem").write_bytes(private)
    (folder / f"{name}.pub").write_bytes(public)
    return folder / f"{name}.pem", folder / f"{name}.pub"


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return write_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def signed(make_bundle, keys, tmp_path_factory):
    out = tmp_path_factory.mktemp("signed") / "bundle"
    return make_bundle(out, signing=Signing(key=keys[0], release=3))


@pytest.fixture
def own(signed, tmp_path):
    return shutil.copytree(signed, tmp_path / "bundle")


def test_a_signed_bundle_passes_and_says_by_whom(signed, keys):
    result = verify(signed, trust=Trust(key=keys[1], requires_signature=True, minimum_release=3))
    assert result.passed
    told = {check["check"]: check["reason"] for check in result.checks}
    assert told["signature"] == f"signed by {keys[1]}"
    assert (signed / "SHA256SUMS.sig").stat().st_size == 64
    assert read_manifest(signed).release == 3


def test_the_runners_on_a_device_take_it(signed, run_runner):
    done = run_runner(signed, "--self-test")
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(shutil.which("openssl") is None, reason="apt-get install openssl")
def test_openssl_checks_the_same_signature(own, keys):
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", keys[1], "-rawin"]
    command += ["-in", own / "SHA256SUMS", "-sigfile", own / "SHA256SUMS.sig"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    (own / "SHA256SUMS").write_text("changed")
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def no_self_test(*_):
    raise AssertionError("nothing of a refused bundle may run")


@pytest.mark.parametrize("is_signed_again", [False, True])
def test_a_changed_byte_is_refused(own, keys, flip_byte, is_signed_again, monkeypatch):
    """With sums that fit again too: they are what was signed."""
    monkeypatch.setattr(module, "_self_test", no_self_test)
    flip_byte(own / "README.md")
    if is_signed_again:
        write_sums(own)
    error = UntrustedBundle if is_signed_again else ArtifactCorrupt
    with pytest.raises(error):
        verify(own, trust=Trust(key=keys[1]))


@pytest.mark.parametrize("content", [b"", b"\0" * 63, b"\0" * 64, b"\0" * 65])
def test_a_changed_signature_is_refused(own, keys, content):
    (own / "SHA256SUMS.sig").write_bytes(content)
    with pytest.raises(UntrustedBundle, match="was not signed by"):
        check_signature(own, Trust(key=keys[1]))


def test_a_strangers_key_is_refused(signed, tmp_path):
    _, other = write_keys(tmp_path, "stranger")
    with pytest.raises(UntrustedBundle, match=r"was not signed by .*stranger\.pub"):
        check_signature(signed, Trust(key=other))


def test_a_missing_signature_is_refused_where_one_is_required(pristine, keys):
    trust = Trust(key=keys[1], requires_signature=True)
    with pytest.raises(UntrustedBundle, match="no signature"):
        check_signature(pristine, trust)
    assert "not signed" in check_signature(pristine, Trust(key=keys[1]))


def test_a_signature_that_nobody_checks_is_told(signed):
    assert "`--key FILE`" in check_signature(signed, Trust())


@pytest.mark.parametrize("release", [0, 2])
def test_an_older_release_is_refused(release):
    assert "nobody's" not in check_release(3, Trust(minimum_release=3), is_signed=True)
    assert check_release(3, Trust(), is_signed=False) == ""
    with pytest.raises(UntrustedBundle, match="at least 3"):
        check_release(release, Trust(minimum_release=3), is_signed=True)


def test_a_release_that_nobody_signed_is_told_to_be_worth_nothing(signed, own, keys):
    (own / "SHA256SUMS.sig").unlink()
    for bundle, key in ((own, keys[1]), (signed, None)):
        result = verify(bundle, trust=Trust(key=key, minimum_release=2))
        told = {check["check"]: check["reason"] for check in result.checks}
        assert "nobody's signature stands for it" in told["release"]


@pytest.mark.parametrize("taken", [("SHA256SUMS.sig",), ("SHA256SUMS", "SHA256SUMS.sig")])
def test_a_signature_of_another_release_is_refused(own, make_bundle, keys, tmp_path, taken):
    """What was signed rightly once stands for those files alone."""
    trust = Trust(key=keys[1], requires_signature=True)
    newer = make_bundle(tmp_path / "newer", signing=Signing(key=keys[0], release=4))
    for name in taken:
        shutil.copyfile(newer / name, own / name)
    with pytest.raises((UntrustedBundle, ArtifactCorrupt)):
        verify(own, trust=trust)


def test_a_release_cannot_be_raised_without_the_key(own, keys):
    manifest = json.loads((own / "manifest.json").read_text())
    (own / "manifest.json").write_text(json.dumps({**manifest, "release": 9}))
    write_sums(own)
    with pytest.raises(UntrustedBundle):
        verify(own, trust=Trust(key=keys[1], minimum_release=9))


def test_keys_that_cannot_be_used_are_refused_before_any_work(keys, tmp_path):
    (tmp_path / "text.pem").write_text("no key")
    for key in (keys[1], tmp_path / "text.pem"):
        with pytest.raises(InputError, match="no Ed25519 private key") as caught:
            check_signing(Signing(key=key))
        assert "openssl" in caught.value.hint
    with pytest.raises(InputError, match="no Ed25519 public key"):
        check_trust(Trust(key=keys[0]))
    with pytest.raises(FileMissing):
        check_signing(Signing(key=tmp_path / "absent.pem"))
    with pytest.raises(InputError, match="no key says whose"):
        check_trust(Trust(requires_signature=True))
    with pytest.raises(InputError, match="release -1"):
        check_signing(Signing(release=-1))


def test_a_key_of_another_kind_is_refused(tmp_path):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

    form = serialization.PrivateFormat.PKCS8
    encoded = generate_private_key(SECP256R1()).private_bytes(
        serialization.Encoding.PEM, form, serialization.NoEncryption()
    )
    (tmp_path / "other.pem").write_bytes(encoded)
    with pytest.raises(InputError, match="it is a E"):
        check_signing(Signing(key=tmp_path / "other.pem"))
