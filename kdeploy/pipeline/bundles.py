"""An edge bundle as something to measure: the very file that it ships."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from kdeploy.bench.subject import Subject
from kdeploy.package.checksums import check_sums
from kdeploy.package.manifest import MANIFEST, MODEL, is_manifest_of_bundle, read_manifest
from kdeploy.package.unpack import unpack


def subject_of_bundle(reference: str, out: Path) -> Subject | None:
    """Return the file of a bundle, a folder or zip; None when `reference` is no bundle.

    A zip is unpacked below `out`.

    Raises:
        ArtifactCorrupt: it is damaged, or of a later kdeploy.
    """
    path = Path(reference)
    if path.is_file() and zipfile.is_zipfile(path):
        folder = out / "bundles" / path.stem
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        unpack(path, folder)
    elif (path / MANIFEST).is_file() and is_manifest_of_bundle((path / MANIFEST).read_bytes()):
        folder = path
    else:
        return None
    check_sums(folder)
    manifest = read_manifest(folder)
    return Subject(
        artifact=manifest.artifact,
        label=manifest.name,
        path=folder / MODEL,
        format="onnx",
        stage="package",
        technique="bundle",
        profile=manifest.model.profile,
    )
