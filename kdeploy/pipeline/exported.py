"""A model and one file of it: what tells the files apart, for people and for records."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from kdeploy.artifact import Artifact, file_sha256
from kdeploy.runtimes.files import files_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A model and one file of it."""

    model: Artifact
    file: Artifact

    @property
    def profile(self) -> str:
        """Return what tells it from other files of its model: its target and its encoding.

        Of an ONNX file that is the encoding alone; elsewhere `cpu` goes without saying.
        """
        encoding = str(self.file.manifest["parameters"].get("profile", ""))
        technique = str(self.file.manifest["technique"])
        if self.file.manifest["stage"] != "export" or technique == "onnx":
            return encoding
        unusual = "" if encoding == "cpu" else encoding
        return "-".join(dict.fromkeys(filter(None, (technique, unusual))))

    @property
    def file_name(self) -> str:
        """Return the name for people: the label, what is unusual about it, the suffix."""
        unusual = [self.profile] if self.profile not in ("", "cpu") else []
        return ".".join([self.model.label, *unusual]) + self.file.file.suffix


def files_sha256(path: Path) -> str:
    """Return the checksum of a file and of the weights that belong to it."""
    checksums = [file_sha256(file) for file in files_of(path)]
    if len(checksums) == 1:
        return checksums[0]
    return hashlib.sha256("".join(checksums).encode()).hexdigest()
