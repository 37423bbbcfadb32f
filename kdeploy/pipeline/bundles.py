"""An edge bundle as something to measure: the very file that it ships."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from kdeploy.bench.model_under_test import ModelUnderTest
from kdeploy.package.checksums import check_sums
from kdeploy.package.manifest import is_bundle
from kdeploy.package.unpack import unpack
from kdeploy.package.verify import checked_manifest


def model_of_bundle(reference: str, out: Path) -> ModelUnderTest | None:
    """Return the file of a bundle, a folder or zip; None when `reference` is no bundle.

    A zip is unpacked below `out`.

    Raises:
        ArtifactCorrupt: it is damaged, or of a later kdeploy.
    """
    path = Path(reference)
    if path.is_file() and zipfile.is_zipfile(path):
        folder = out / "bundles" / path.stem
        # Files of another zip of this name would stay beside, and fail the check of sums.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        unpack(path, folder)
    elif is_bundle(path):
        folder = path
    else:
        return None
    manifest = checked_manifest(folder, check_sums(folder))
    return ModelUnderTest(
        artifact=manifest.artifact,
        label=manifest.name,
        path=folder / manifest.model.file,
        format=manifest.model.format,
        stage="package",
        technique="bundle",
        profile=manifest.model.profile,
    )
