"""Sign a bundle, and trust only what a known key has signed: Ed25519 over SHA256SUMS.

RFC 8032. `SHA256SUMS.sig` holds the 64 bytes of the signature alone, so that OpenSSL checks it too:
`openssl pkeyutl -verify -pubin -inkey KEY -rawin -in SHA256SUMS -sigfile SHA256SUMS.sig`.
A signature says who made a bundle, not that it is the newest: for that it has a release number.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdeploy.errors import FileMissing, InputError, MissingDependency, UntrustedBundle
from kdeploy.package.runner.python.reading import SIGNATURE, SUMS

SIGNATURE_BYTES = 64
MOST_KEY_BYTES = 10_000
NEWEST_RELEASE = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing:
    """Who vouches for a bundle, and which release of it this is."""

    key: Path | None = None
    """PEM file of an Ed25519 private key, without a passphrase; None: it is not signed."""
    release: int = 0
    """Counts up from one bundle to the next; 0: it has no number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What a bundle must prove of its origin."""

    key: Path | None = None
    """PEM file of the maker's Ed25519 public key."""
    requires_signature: bool = False
    minimum_release: int = 0
    """An older bundle, which may be signed rightly, is refused: nobody is rolled back."""


def check_signing(signing: Signing) -> None:
    """Refuse a key that cannot sign, before any work.

    Raises:
        InputError: it is no Ed25519 private key, or the release is no number of one.
        FileMissing: there is no such file.
        MissingDependency: the library is not installed.
    """
    if not 0 <= signing.release <= NEWEST_RELEASE:
        raise InputError(
            f"release {signing.release} is no number of one",
            hint=f"count up from 1, to {NEWEST_RELEASE} at most",
        )
    if signing.key is not None:
        _key(signing.key, "private")


def check_trust(trust: Trust) -> None:
    """Refuse what could never be checked; raises as `check_signing`."""
    if trust.requires_signature and trust.key is None:
        raise InputError(
            "a signature is required, and no key says whose",
            hint="name the maker's public key: `--key FILE`",
        )
    if trust.key is not None:
        _key(trust.key, "public")


def sign(folder: Path, key: Path) -> None:
    """Write the signature of a bundle's sums; raises as `check_signing`."""
    signature: bytes = _key(key, "private").sign((folder / SUMS).read_bytes())
    (folder / SIGNATURE).write_bytes(signature)


def check_signature(folder: Path, trust: Trust) -> str:
    """Return in words what is known of who made a bundle whose sums hold.

    Raises:
        UntrustedBundle: it is not signed and must be, or not by this key.
    """
    path = folder / SIGNATURE
    if not path.is_file():
        if trust.requires_signature:
            raise UntrustedBundle(
                f"the bundle has no signature ({SIGNATURE})",
                hint="get it signed from its maker: `kdeploy package --sign KEY`",
            )
        return "it is not signed: its sums say that it is whole, not who made it"
    if trust.key is None:
        return "it is signed; `--key FILE` with the maker's public key checks by whom"
    from cryptography.exceptions import InvalidSignature

    signature = path.read_bytes()
    try:
        if len(signature) != SIGNATURE_BYTES:
            raise InvalidSignature
        _key(trust.key, "public").verify(signature, (folder / SUMS).read_bytes())
    except InvalidSignature:
        raise UntrustedBundle(
            f"the bundle was not signed by {trust.key}, or was changed since",
            hint="ask its maker for the bundle and the key again, over a channel that you trust",
        ) from None
    return f"signed by {trust.key}"


def check_release(release: int, trust: Trust, *, is_signed: bool) -> str:
    """Return in words what a bundle's number is worth, "" where none is asked for.

    Args:
        release: As its manifest says.
        trust: Which it must be at least.
        is_signed: Whether the maker's key stands for the manifest.

    Raises:
        UntrustedBundle: its number is lower, or it has none.
    """
    if release < trust.minimum_release:
        found = f"release {release}" if release else "a bundle without a release number"
        raise UntrustedBundle(
            f"this is {found}; at least {trust.minimum_release} is asked for",
            hint="get the newest bundle; `kdeploy package --release N` numbers them",
        )
    if not trust.minimum_release:
        return ""
    told = f"release {release}, and at least {trust.minimum_release} was asked for"
    return told if is_signed else f"{told}; nobody's signature stands for it: add `--key FILE`"


def _key(path: Path, kind: str) -> Any:
    """Return the Ed25519 key of a PEM file."""
    if not path.is_file():
        raise FileMissing(
            f"there is no key {path}", hint="openssl genpkey -algorithm ed25519 -out key.pem"
        )
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise MissingDependency.named("cryptography", needed_for="a signature") from None
    with path.open("rb") as file:
        text = file.read(MOST_KEY_BYTES)
    classes = {"private": ed25519.Ed25519PrivateKey, "public": ed25519.Ed25519PublicKey}
    try:
        is_private = kind == "private"
        found = (
            serialization.load_pem_private_key(text, password=None)
            if is_private
            else serialization.load_pem_public_key(text)
        )
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _no_key(path, kind, str(error)[:200]) from None
    if not isinstance(found, classes[kind]):
        raise _no_key(path, kind, f"it is a {type(found).__name__}")
    return found


def _no_key(path: Path, kind: str, reason: str) -> InputError:
    made = "openssl genpkey -algorithm ed25519 -out key.pem"
    public = "openssl pkey -in key.pem -pubout -out key.pub"
    return InputError(
        f"{path} is no Ed25519 {kind} key in PEM: {reason}",
        hint=made if kind == "private" else public,
    )
