"""SHA256SUMS: a checksum of every other file of a bundle, as `sha256sum -c` reads it.

It proves that nothing changed since packaging, not who packaged: whoever can change a file can
change its line too. `digest` is the one number to compare over a channel that you trust.
"""

from __future__ import annotations

from pathlib import Path

from kdeploy.errors import ArtifactCorrupt
from kdeploy.package.runner.python.reading import SIGNATURE, SUMS, Refused, check_files
from kdeploy.store.artifact import file_sha256


def write_sums(folder: Path) -> None:
    """Write the checksums of all files, sorted by name."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    lines = [
        f"{file_sha256(folder / name)}  {name}\n" for name in names if name not in (SUMS, SIGNATURE)
    ]
    (folder / SUMS).write_text("".join(lines))


def check_sums(folder: Path) -> dict[str, str]:
    """Return the checksum of each file after comparing all of them.

    Raises:
        ArtifactCorrupt: a file is changed, missing, not listed, larger than any of a bundle, or no
            plain file.
    """
    try:
        return check_files(folder)
    except Refused as error:
        raise damaged(str(error)) from None


def digest(folder: Path) -> str:
    """Return the checksum of SHA256SUMS, which stands for the whole bundle."""
    return file_sha256(folder / SUMS)


def damaged(what: str) -> ArtifactCorrupt:
    """Return the error for a bundle that cannot be trusted to be what was packaged."""
    return ArtifactCorrupt(
        f"the bundle is damaged: {what}",
        hint="copy or unpack it again, or make it again with `kdeploy package`",
    )
